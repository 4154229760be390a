//! A stand-in for EC2 on a free port: what moto is not faithful in. Tokens are kept to, machines take their time, and
//! calls can be refused, or done without a reply.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

/// What goes wrong with the next call of an action.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Done, and the connection is closed without a word.
    LoseReply,
    /// Not done: status and code.
    Refuse(u16, &'static str),
}

pub type Parameters = BTreeMap<String, String>;

#[derive(Clone, Debug)]
pub struct Instance {
    pub id: String,
    pub state: &'static str,
    /// Looks until the next state.
    pub looks: u32,
    pub tags: Vec<(String, String)>,
    pub asked: Parameters,
    pub reason: &'static str,
    /// Looks by tag in which it is not yet listed.
    pub hidden: u32,
}

#[derive(Default)]
pub struct World {
    pub instances: Vec<Instance>,
    pub key_pairs: BTreeMap<String, String>,
    pub groups: BTreeMap<String, String>,
    pub faults: BTreeMap<String, VecDeque<Fault>>,
    pub calls: Vec<(String, Parameters)>,
    /// Looks until a machine runs, and until one has ended.
    pub slowness: u32,
    pub hidden: u32,
    /// A machine dies instead of running, for this reason.
    pub dies: Option<&'static str>,
    pub console: String,
    /// Where the public half of an imported key is written.
    pub authorized_keys: Option<PathBuf>,
}

pub struct Standin {
    pub url: String,
    world: Arc<Mutex<World>>,
}

impl Standin {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let world = Arc::new(Mutex::new(World::default()));
        let shared = Arc::clone(&world);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &shared);
            }
        });
        Self { url, world }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub fn fault(&self, action: &str, fault: Fault) {
        self.world().faults.entry(action.to_owned()).or_default().push_back(fault);
    }

    pub fn count(&self, action: &str) -> usize {
        self.world().calls.iter().filter(|(name, _)| name == action).count()
    }
}

fn serve(mut stream: TcpStream, world: &Mutex<World>) {
    let Some((headers, body)) = read(&stream) else { return };
    assert!(headers.contains("aws4-hmac-sha256 credential=akid/"), "not signed: {headers}");
    let signed = |region| headers.contains(&format!("/{region}/ec2/aws4_request, signedheaders=host;x-amz-date"));
    assert!(signed("us-east-1") || signed("eu-west-1"), "{headers}");
    let parameters = parse(&body);
    let action = parameters.get("Action").cloned().unwrap_or_default();
    let mut world = world.lock().unwrap();
    world.calls.push((action.clone(), parameters.clone()));
    let fault = world.faults.get_mut(&action).and_then(VecDeque::pop_front);
    let (status, reply) = match fault {
        Some(Fault::Refuse(status, code)) => (status, refusal(code)),
        Some(Fault::LoseReply) => {
            let _ = world.act(&action, &parameters);
            return;
        }
        None => match world.act(&action, &parameters) {
            Ok(inner) => (
                200,
                format!(
                    "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r</requestId>{inner}</{action}Response>"
                ),
            ),
            Err(code) => (400, refusal(code)),
        },
    };
    let _ = write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{reply}", reply.len());
}

fn refusal(code: &str) -> String {
    format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>About {code}.</Message></Error></Errors><RequestID>r</RequestID></Response>"
    )
}

fn read(stream: &TcpStream) -> Option<(String, String)> {
    let mut reader = BufReader::new(stream);
    let (mut headers, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        let line = line.to_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().ok()?;
        }
        headers.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((headers, String::from_utf8(body).ok()?))
}

fn parse(body: &str) -> Parameters {
    let decode = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            if byte == b'%' {
                let hex = [rest.next().unwrap(), rest.next().unwrap()];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
            } else {
                bytes.push(byte);
            }
        }
        String::from_utf8(bytes).unwrap()
    };
    body.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (decode(name), decode(value))).collect()
}

/// `Prefix.n.Suffix` in the order of n.
fn numbered<'a>(parameters: &'a Parameters, prefix: &str, suffix: &str) -> Vec<&'a str> {
    (1..).map_while(|n| parameters.get(&format!("{prefix}.{n}{suffix}")).map(String::as_str)).collect()
}

impl World {
    fn act(&mut self, action: &str, parameters: &Parameters) -> Result<String, &'static str> {
        match action {
            "DescribeImages" => Ok(images(parameters)),
            "RunInstances" => self.launch(parameters),
            "DescribeInstances" => Ok(self.describe(parameters)),
            "TerminateInstances" => {
                let looks = self.slowness;
                for id in numbered(parameters, "InstanceId", "") {
                    let found =
                        self.instances.iter_mut().find(|one| one.id == id).ok_or("InvalidInstanceID.NotFound")?;
                    if found.state != "terminated" {
                        (found.state, found.looks) = ("shutting-down", looks);
                    }
                }
                Ok(String::new())
            }
            "ImportKeyPair" => {
                let name = parameters["KeyName"].clone();
                if self.key_pairs.contains_key(&name) {
                    return Err("InvalidKeyPair.Duplicate");
                }
                if let Some(path) = &self.authorized_keys {
                    std::fs::write(path, decoded(&parameters["PublicKeyMaterial"])).unwrap();
                }
                self.key_pairs.insert(name, parameters["TagSpecification.1.Tag.1.Value"].clone());
                Ok(String::new())
            }
            "DeleteKeyPair" => {
                self.key_pairs.remove(&parameters["KeyName"]);
                Ok(String::new())
            }
            "CreateSecurityGroup" => {
                let id = format!("sg-{}", parameters["GroupName"]);
                if self.groups.contains_key(&id) {
                    return Err("InvalidGroup.Duplicate");
                }
                self.groups.insert(id.clone(), parameters["TagSpecification.1.Tag.1.Value"].clone());
                Ok(format!("<groupId>{id}</groupId>"))
            }
            "AuthorizeSecurityGroupIngress" | "CreateTags" => Ok(String::new()),
            "DeleteSecurityGroup" => {
                let id = &parameters["GroupId"];
                let held = self
                    .instances
                    .iter()
                    .any(|one| one.state != "terminated" && one.asked.get("SecurityGroupId.1") == Some(id));
                if held {
                    return Err("DependencyViolation");
                }
                self.groups.remove(id).map(|_| String::new()).ok_or("InvalidGroup.NotFound")
            }
            "DescribeKeyPairs" => Ok(named("keySet", "keyName", &self.key_pairs, parameters)),
            "DescribeSecurityGroups" => Ok(named("securityGroupInfo", "groupId", &self.groups, parameters)),
            "GetConsoleOutput" => Ok(format!("<output>{}</output>", encoded(&self.console))),
            _ => Err("InvalidAction"),
        }
    }

    fn launch(&mut self, parameters: &Parameters) -> Result<String, &'static str> {
        let token = &parameters["ClientToken"];
        if let Some(known) = self.instances.iter().find(|one| &one.asked["ClientToken"] == token) {
            if &known.asked != parameters {
                return Err("IdempotentParameterMismatch");
            }
            return Ok(format!("<instancesSet>{}</instancesSet>", shown(known)));
        }
        let tags = numbered(parameters, "TagSpecification.1.Tag", ".Key");
        let values = numbered(parameters, "TagSpecification.1.Tag", ".Value");
        let instance = Instance {
            id: format!("i-{:04}", self.instances.len() + 1),
            state: "pending",
            looks: self.slowness,
            tags: tags.into_iter().map(ToOwned::to_owned).zip(values.into_iter().map(ToOwned::to_owned)).collect(),
            asked: parameters.clone(),
            reason: "",
            hidden: self.hidden,
        };
        let reply = format!("<instancesSet>{}</instancesSet>", shown(&instance));
        self.instances.push(instance);
        Ok(reply)
    }

    fn describe(&mut self, parameters: &Parameters) -> String {
        let name = parameters.get("Filter.1.Name").map(String::as_str).unwrap_or_default();
        let value = parameters.get("Filter.1.Value.1").map(String::as_str).unwrap_or_default();
        let dies = self.dies;
        let mut inner = String::new();
        for one in &mut self.instances {
            let matches = match name {
                "instance-id" => one.id == value,
                "tag-key" => one.tags.iter().any(|(key, _)| key == value),
                tag => one.tags.iter().any(|(key, text)| tag.strip_prefix("tag:") == Some(key) && text == value),
            };
            if !matches {
                continue;
            }
            if name != "instance-id" && one.hidden > 0 {
                one.hidden -= 1;
                continue;
            }
            if one.looks > 0 {
                one.looks -= 1;
            } else {
                match (one.state, dies) {
                    ("pending", Some(reason)) => (one.state, one.reason) = ("terminated", reason),
                    ("pending", None) => one.state = "running",
                    ("shutting-down", _) => one.state = "terminated",
                    _ => {}
                }
            }
            inner.push_str(&shown(one));
        }
        format!("<reservationSet><item><instancesSet>{inner}</instancesSet></item></reservationSet>")
    }
}

fn shown(one: &Instance) -> String {
    let mut tags = String::new();
    for (key, value) in &one.tags {
        let _ = write!(tags, "<item><key>{key}</key><value>{value}</value></item>");
    }
    let address = if one.state == "running" { "<ipAddress>127.0.0.1</ipAddress>" } else { "" };
    format!(
        "<item><instanceId>{}</instanceId><imageId>{}</imageId><instanceState><code>0</code><name>{}</name></instanceState>\
         <instanceType>{}</instanceType><launchTime>2026-01-01T00:00:00.000Z</launchTime>{address}\
         <stateReason><message>{}</message></stateReason><tagSet>{tags}</tagSet></item>",
        one.id, one.asked["ImageId"], one.state, one.asked["InstanceType"], one.reason
    )
}

fn images(parameters: &Parameters) -> String {
    let arm = parameters["Filter.3.Value.1"] == "arm64";
    let name = parameters["Filter.1.Value.1"].replace('*', "");
    if parameters["Owner.1"] != "099720109477" {
        return "<imagesSet/>".into();
    }
    let suffix = if arm { "arm" } else { "amd" };
    format!(
        "<imagesSet><item><imageId>ami-new-{suffix}</imageId><name>{name}20261101</name><creationDate>2026-11-01T00:00:00.000Z</creationDate></item>\
         <item><imageId>ami-old-{suffix}</imageId><name>{name}20250101</name><creationDate>2025-01-01T00:00:00.000Z</creationDate></item></imagesSet>"
    )
}

/// Things with a tag of a run, let through by name or by tag.
fn named(list: &str, id: &str, things: &BTreeMap<String, String>, parameters: &Parameters) -> String {
    let filter = parameters["Filter.1.Name"].as_str();
    let value = parameters["Filter.1.Value.1"].as_str();
    let mut inner = String::new();
    for (name, run) in things {
        let matches = match filter {
            "tag-key" => value == "pgconvoy-run",
            "tag:pgconvoy-run" => run == value,
            _ => name.ends_with(value),
        };
        if matches {
            let _ = write!(
                inner,
                "<item><{id}>{name}</{id}><tagSet><item><key>pgconvoy-run</key><value>{run}</value></item></tagSet></item>"
            );
        }
    }
    format!("<{list}>{inner}</{list}>")
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub fn decoded(text: &str) -> Vec<u8> {
    let bits: String = text
        .bytes()
        .filter_map(|byte| ALPHABET.iter().position(|other| *other == byte))
        .fold(String::new(), |bits, value| bits + &format!("{value:06b}"));
    bits.as_bytes()
        .chunks_exact(8)
        .map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap())
        .collect()
}

fn encoded(text: &str) -> String {
    let mut bits = text.bytes().fold(String::new(), |bits, byte| bits + &format!("{byte:08b}"));
    while !bits.len().is_multiple_of(6) {
        bits.push('0');
    }
    let values = bits.as_bytes().chunks(6).map(|six| u8::from_str_radix(std::str::from_utf8(six).unwrap(), 2).unwrap());
    let mut out: String = values.map(|value| char::from(ALPHABET[usize::from(value)])).collect();
    while !out.len().is_multiple_of(4) {
        out.push('=');
    }
    out
}
