//! What a run needs at EC2 beside the machine, made once whoever asks how often: key pair, firewall, image.

use super::api::{Api, Image, Instance, Parameters};
use super::xml::{items, text};
use super::{Error, Result, TAG_RUN, sigv4};
use crate::cloud::http::base64;

/// Canonical's account, which publishes Ubuntu ("Find Ubuntu images on AWS", documentation.ubuntu.com).
const UBUNTU_OWNER: &str = "099720109477";
/// Debian's account (wiki.debian.org, "Cloud/AmazonEC2Image").
const DEBIAN_OWNER: &str = "136693071363";

impl Api {
    /// The instances of a run, also those that have ended lately.
    ///
    /// # Errors
    /// The call failed.
    pub fn of_run(&self, run: &str) -> Result<Vec<Instance>> {
        self.instances(|| Parameters::default().filter(1, &format!("tag:{TAG_RUN}"), &[run]))
    }

    /// The instances of all runs.
    ///
    /// # Errors
    /// The call failed.
    pub fn of_all_runs(&self) -> Result<Vec<Instance>> {
        self.instances(|| Parameters::default().filter(1, "tag-key", &[TAG_RUN]))
    }

    /// The newest image of Ubuntu's long-term release, else of Debian, and who logs in there.
    pub(super) fn usual_image(&self, arm: bool) -> Result<(Image, &'static str)> {
        let architecture = if arm { "arm64" } else { "amd64" };
        let ubuntu = format!("ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{architecture}-server-*");
        let debian = format!("debian-12-{architecture}-*");
        for (owner, name, user) in [(UBUNTU_OWNER, ubuntu, "ubuntu"), (DEBIAN_OWNER, debian, "admin")] {
            if let Some(image) = self.newest_image(owner, &name, arm)? {
                return Ok((image, user));
            }
        }
        Err(Error::Usage(format!(
            "neither Ubuntu 24.04 nor Debian 12 for {architecture} is in {}: name an --image and its --ssh-user",
            self.region
        )))
    }

    /// The run's key pair. The name holds a part of the key's hash: a pair of that name is this one.
    pub(super) fn ensure_key_pair(&self, run: &str, public_key: &str) -> Result<String> {
        let hash = ring::digest::digest(&ring::digest::SHA256, public_key.as_bytes());
        let name = format!("pgconvoy-{run}-{}", &sigv4::hex(hash.as_ref())[..12]);
        let parameters = Parameters::default()
            .with("KeyName", &name)
            .with("PublicKeyMaterial", base64(public_key.as_bytes()))
            .tags(1, "key-pair", &[(TAG_RUN, run)]);
        match self.call("ImportKeyPair", parameters) {
            Err(error) if error.code() != Some("InvalidKeyPair.Duplicate") => Err(error),
            _ => Ok(name),
        }
    }

    /// The run's firewall: ssh from `from`, and nothing else from outside.
    pub(super) fn ensure_group(&self, run: &str, vpc: Option<&str>, from: &str) -> Result<String> {
        let name = group_name(run);
        let parameters = Parameters::default()
            .with("GroupName", &name)
            .with("GroupDescription", "ssh for one run of pgconvoy")
            .maybe("VpcId", vpc)
            .tags(1, "security-group", &[(TAG_RUN, run)]);
        let made = self.ask("CreateSecurityGroup", parameters, |root| Some(text(root, &["groupId"])?.to_owned()));
        let id = match made {
            Err(error) if error.code() == Some("InvalidGroup.Duplicate") => {
                self.groups(&[("group-name", &name)])?.into_iter().next().map(|group| group.id).ok_or_else(|| {
                    Error::Reply { action: "DescribeSecurityGroups", problem: format!("{name} is there and is not") }
                })?
            }
            made => made?,
        };
        let parameters = Parameters::default()
            .with("GroupId", &id)
            .with("IpPermissions.1.IpProtocol", "tcp")
            .with("IpPermissions.1.FromPort", "22")
            .with("IpPermissions.1.ToPort", "22")
            .with("IpPermissions.1.IpRanges.1.CidrIp", from);
        match self.call("AuthorizeSecurityGroupIngress", parameters) {
            Err(error) if error.code() != Some("InvalidPermission.Duplicate") => Err(error),
            _ => Ok(id),
        }
    }

    pub(super) fn groups(&self, filters: &[(&str, &str)]) -> Result<Vec<Named>> {
        let parameters = with_filters(filters);
        self.ask("DescribeSecurityGroups", parameters, |root| named(root, "securityGroupInfo", "groupId"))
    }

    pub(super) fn key_pairs(&self, filters: &[(&str, &str)]) -> Result<Vec<Named>> {
        let parameters = with_filters(filters);
        self.ask("DescribeKeyPairs", parameters, |root| named(root, "keySet", "keyName"))
    }

    /// The network that a subnet belongs to.
    pub(super) fn network_of(&self, subnet: &str) -> Result<String> {
        let parameters = Parameters::default().with("SubnetId.1", subnet);
        self.ask("DescribeSubnets", parameters, |root| {
            let subnets = items(root, "subnetSet");
            Some(text(*subnets.first()?, &["vpcId"])?.to_owned())
        })
    }

    pub(super) fn delete_key_pair(&self, name: &str) -> Result<()> {
        match self.call("DeleteKeyPair", Parameters::default().with("KeyName", name)) {
            Err(error) if error.code() != Some("InvalidKeyPair.NotFound") => Err(error),
            _ => Ok(()),
        }
    }

    /// Says `false` where the group is still in use: a machine that is ending holds it for a while.
    pub(super) fn delete_group(&self, id: &str) -> Result<bool> {
        match self.call("DeleteSecurityGroup", Parameters::default().with("GroupId", id)) {
            Ok(_) => Ok(true),
            Err(error) => match error.code() {
                Some("InvalidGroup.NotFound" | "InvalidGroupId.NotFound") => Ok(true),
                Some("DependencyViolation" | "InvalidGroup.InUse") => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Sets the tag that says when a machine ends.
    pub(super) fn tag(&self, id: &str, name: &str, value: &str) -> Result<()> {
        let parameters =
            Parameters::default().with("ResourceId.1", id).with("Tag.1.Key", name).with("Tag.1.Value", value);
        self.call("CreateTags", parameters).map(drop)
    }
}

/// Something of EC2 that a run has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub id: String,
    pub run: Option<String>,
}

fn with_filters(filters: &[(&str, &str)]) -> Parameters {
    filters
        .iter()
        .enumerate()
        .fold(Parameters::default(), |parameters, (index, (name, value))| parameters.filter(index + 1, name, &[value]))
}

fn named(root: roxmltree::Node<'_, '_>, list: &str, id: &str) -> Option<Vec<Named>> {
    items(root, list)
        .into_iter()
        .map(|item| {
            let tags = items(item, "tagSet");
            let run = tags.iter().find(|tag| text(**tag, &["key"]) == Some(TAG_RUN));
            let run = run.and_then(|tag| text(*tag, &["value"])).map(ToOwned::to_owned);
            Some(Named { id: text(item, &[id])?.to_owned(), run })
        })
        .collect()
}

pub(super) fn group_name(run: &str) -> String {
    format!("pgconvoy-{run}")
}
