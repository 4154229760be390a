//! Archives that are encrypted with age: read with the right key only, whole or in parts, by us and by age itself.

use std::io::Read;
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;

use crate::errors::assert_says;
use crate::fixture::{empty, newest, pgconvoy, scratch, small};
use crate::security::assert_files_without;
use crate::support::{Ran, TestDb};

/// A key in a file, as age-keygen writes it.
struct Key {
    identity: age::x25519::Identity,
    recipient: String,
    file: String,
}

impl Key {
    fn new(directory: &Path, name: &str) -> Self {
        let identity = age::x25519::Identity::generate();
        let recipient = identity.to_public().to_string();
        let file = directory.join(name);
        let text = format!("# public key: {recipient}\n{}\n", identity.to_string().expose_secret());
        std::fs::write(&file, text).unwrap();
        Self { identity, recipient, file: file.to_str().unwrap().to_owned() }
    }
}

fn decrypt(key: &Key, file: &Path) -> Vec<u8> {
    let decryptor = age::Decryptor::new(std::fs::File::open(file).unwrap()).unwrap();
    let mut bytes = Vec::new();
    let mut stream = decryptor.decrypt(std::iter::once(&key.identity as &dyn age::Identity)).unwrap();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

fn segments(archive: &Path) -> Vec<PathBuf> {
    let fans = std::fs::read_dir(archive.join("data")).unwrap();
    let mut files: Vec<_> =
        fans.flat_map(|fan| std::fs::read_dir(fan.unwrap().path()).unwrap()).map(|file| file.unwrap().path()).collect();
    files.sort_by_key(|path| std::fs::metadata(path).unwrap().len());
    files
}

async fn source() -> TestDb {
    let source = small().await;
    source
        .execute(
            // Sizes, and so chunks, come from statistics: nobody shall gather them between two dumps.
            "CREATE TABLE needle_table WITH (autovacuum_enabled = off) AS
                 SELECT i, 'needle_value ' || md5(i::text) AS t FROM generate_series(1, 20000) i;
             ANALYZE needle_table;
             SELECT lo_from_bytea(31, 'needle_object')",
        )
        .await;
    source
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_archive_tells_nothing_without_its_key_and_everything_with_it() {
    let source = source().await;
    let (directory, archive) = scratch("archive");
    let (ours, theirs, other) = (
        Key::new(directory.path(), "ours.key"),
        Key::new(directory.path(), "theirs.key"),
        Key::new(directory.path(), "other.key"),
    );
    let list = directory.path().join("recipients");
    std::fs::write(&list, format!("# both\n{}\n\n", theirs.recipient)).unwrap();
    let path = archive.to_str().unwrap();
    let from = source.uri();
    let dump = ["dump", "--source", &from, "--chunk-size", "1MB", "--zstd-level", "1", path];
    let to = ["--encrypt", &ours.recipient, "--encrypt", list.to_str().unwrap()];
    let _ = pgconvoy(&[&dump[..], &to].concat()).await.expect_success();
    let needles = ["needle", "PGCOPY", "PGDMP", "\"record\"", "public", "postgres", "small"];
    assert!(assert_files_without(&needles, &archive) >= 5);
    for key in [&ours, &theirs] {
        let target = empty(&newest().await).await;
        let uri = target.uri();
        let with = |args: &[&str]| {
            args.iter().copied().chain(["--identity", &*key.file]).map(String::from).collect::<Vec<_>>()
        };
        for args in [
            &["restore", path, "--target", &uri][..],
            &["verify", "--archive", path, "--target", &uri],
            &["verify", "--evidence", path, "--target", &uri],
            &["check", path],
        ] {
            let args = with(args);
            let _ = pgconvoy(&args.iter().map(String::as_str).collect::<Vec<_>>()).await.expect_success();
        }
        let args = with(&["inspect", path]);
        let ran = pgconvoy(&args.iter().map(String::as_str).collect::<Vec<_>>()).await.expect_success();
        assert!(ran.stdout.contains("sealed, encrypted") && ran.stdout.contains("needle_table"), "{}", ran.stdout);
        assert_eq!(target.one("SELECT count(*) FROM needle_table WHERE t LIKE 'needle_value %'").await, "20000");
        // By age itself.
        assert!(decrypt(key, &archive.join("schema.dump")).starts_with(b"PGDMP"));
        assert!(decrypt(key, segments(&archive).last().unwrap()).starts_with(b"\x89PGCS"));
        assert!(decrypt(key, &archive.join("manifest")).ends_with(b"}\n"));
    }
    let target = empty(&newest().await).await;
    let uri = target.uri();
    for args in [
        &["restore", path, "--target", &uri][..],
        &["verify", "--archive", path, "--target", &uri],
        &["verify", "--evidence", path, "--target", &uri],
        &["check", path],
        &["inspect", path],
    ] {
        assert_says(&pgconvoy(args).await.expect_code(5), &["is encrypted", "--identity"]);
        let wrong = [args, &["--identity", &other.file]].concat();
        assert_says(&pgconvoy(&wrong).await.expect_code(5), &["to none of the identities given"]);
    }
    assert_eq!(target.one("SELECT count(*) FROM pg_class WHERE oid >= 16384").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_key_is_refused_before_the_start_and_never_shown() {
    let (directory, archive) = scratch("archive");
    let path = archive.to_str().unwrap();
    let key = Key::new(directory.path(), "key");
    let secret = key.identity.to_string();
    let not_a_key = directory.path().join("not_a_key");
    std::fs::write(&not_a_key, format!("{}x\n", secret.expose_secret())).unwrap();
    let (empty, not_a_key) = (directory.path().join("empty"), not_a_key.to_str().unwrap());
    std::fs::write(&empty, "# nothing\n").unwrap();
    let empty = empty.to_str().unwrap();
    let refused = async |args: &[&str], says: &str| {
        let ran: Ran = pgconvoy(args).await.expect_code(2);
        assert_says(&ran, &[says]);
        let tail = secret.expose_secret()[20..40].to_lowercase();
        let said = format!("{}{}", ran.stderr, ran.stdout).to_lowercase();
        assert!(!said.contains(&tail), "{ran:?}");
    };
    refused(&["check", path, "--identity", not_a_key], "no secret key of age").await;
    refused(&["check", path, "--identity", empty], "holds no secret key").await;
    refused(&["check", path, "--identity", "/nonexistent"], "No such file").await;
    // A key where nothing is read that could be encrypted is a mistake of somebody.
    let evidence = directory.path().join("evidence.json");
    std::fs::write(&evidence, "{}").unwrap();
    let evidence = evidence.to_str().unwrap();
    let with = ["--identity", key.file.as_str()];
    let verify = ["verify", "--target", "dbname=x"];
    refused(&[&verify[..], &["--evidence", evidence], &with].concat(), "--identity cannot be used with an evidence")
        .await;
    refused(&[&verify[..], &["--source", "dbname=y"], &with].concat(), "--identity cannot be used without --arch")
        .await;
    refused(&[&["check", evidence], &with[..]].concat(), "--identity cannot be used with a file").await;
    let dump = ["dump", path, "--source", "dbname=x", "--encrypt"];
    refused(&[&dump[..], &["age1nonsense"]].concat(), "recipient age1nonsense").await;
    refused(&[&dump[..], &[empty]].concat(), "holds no public key").await;
    // The secret key where the public one should be: it is not one of the recipients, and not said.
    refused(&[&dump[..], &[not_a_key]].concat(), "recipients").await;
    // The key itself, where a file or a public key should be, or anything else.
    let lower = secret.expose_secret().to_lowercase();
    for secret in [secret.expose_secret(), &*lower] {
        refused(&["check", path, "--identity", secret], "a secret key was given").await;
        refused(&[&dump[..], &[secret]].concat(), "a secret key was given").await;
        refused(&["check", path, "--jobs", secret], "--jobs").await;
    }
    assert!(!archive.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_and_exchange_of_encrypted_files_are_noticed() {
    let source = source().await;
    let (directory, archive) = scratch("archive");
    let key = Key::new(directory.path(), "key");
    let (path, from) = (archive.to_str().unwrap(), source.uri());
    let dump = ["dump", "--source", &from, "--chunk-size", "1MB", path, "--encrypt", &key.recipient];
    let _ = pgconvoy(&dump).await.expect_success();
    let (plain, other) = (directory.path().join("plain"), directory.path().join("other"));
    // In the same chunks.
    let dump = ["dump", "--source", &from, "--chunk-size", "1MB", plain.to_str().unwrap()];
    let _ = pgconvoy(&dump).await.expect_success();
    // A key where none is needed: somebody believes that the rows are safe.
    for args in [&["check", plain.to_str().unwrap()][..], &["inspect", plain.to_str().unwrap()]] {
        let ran = pgconvoy(&[args, &["--identity", &key.file]].concat()).await.expect_success();
        assert_says(&ran, &["NOT encrypted"]);
        assert!(!pgconvoy(args).await.expect_success().stderr.contains("NOT encrypted"));
    }
    let stranger = Key::new(directory.path(), "stranger");
    let to = ["--encrypt", &*stranger.recipient];
    let dump = [&["dump", "--source", &from, "--chunk-size", "1MB", other.to_str().unwrap()][..], &to].concat();
    let _ = pgconvoy(&dump).await.expect_success();
    let check = ["check", path, "--identity", &key.file];
    let largest = segments(&archive).pop().unwrap();
    let good = std::fs::read(&largest).unwrap();
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let mut of_header = good.clone();
    of_header[60] ^= 1;
    let name = largest.strip_prefix(&archive).unwrap();
    let small_one = std::fs::read(&segments(&archive)[0]).unwrap();
    for (what, bytes) in [
        ("flipped", flipped),
        ("of the header", of_header),
        ("cut", good[..good.len() - 1].to_vec()),
        ("longer", [&good[..], b"x"].concat()),
        ("of another table", small_one),
        ("plain", std::fs::read(plain.join(name)).unwrap()),
        ("of another key", std::fs::read(other.join(name)).unwrap()),
        ("empty", Vec::new()),
    ] {
        std::fs::write(&largest, bytes).unwrap();
        let ran = pgconvoy(&check).await.expect_code(1);
        assert!(
            ran.stdout.contains("segment data/") && ran.stdout.contains("public.needle_table"),
            "{what}: {}",
            ran.stdout
        );
        std::fs::write(&largest, &good).unwrap();
    }
    let _ = pgconvoy(&check).await.expect_success();
    // Definitions that are encrypted to another key are damage to this archive, not a wrong key.
    let schema = archive.join("schema.dump");
    let good = std::fs::read(&schema).unwrap();
    std::fs::write(&schema, std::fs::read(other.join("schema.dump")).unwrap()).unwrap();
    for args in
        [&check[..], &["restore", path, "--identity", &key.file, "--target", "dbname=nowhere host=/nonexistent"]]
    {
        let ran = pgconvoy(args).await;
        // Lines are broken where the directory's name is long.
        let said = format!("{} {}", ran.stdout, ran.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("schema.dump") && said.contains("encrypted to others than the manifest"), "{said}");
    }
    std::fs::write(&schema, good).unwrap();
    // A manifest that ends anywhere is that of a dump that did not finish, at best.
    let manifest = archive.join("manifest");
    let good = std::fs::read(&manifest).unwrap();
    for length in [good.len() - 1, good.len() - 20, good.len() / 2, 300, 150, 22, 10, 0] {
        std::fs::write(&manifest, &good[..length]).unwrap();
        let target = ["--target", "dbname=nowhere host=/nonexistent"];
        let ran = pgconvoy(&[&["restore", path, "--identity", &key.file][..], &target].concat()).await;
        let _ = ran.expect_code(5);
    }
    std::fs::write(&manifest, std::fs::read(plain.join("manifest")).unwrap()).unwrap();
    let ran = pgconvoy(&check).await.expect_code(1);
    assert!(ran.stdout.contains("DAMAGED"), "{}", ran.stdout);
    std::fs::write(&manifest, &good).unwrap();
    let _ = pgconvoy(&check).await.expect_success();
}
