//! For the fuzzer: a commit of a remote that holds anything, read as any other.

use git2::{ObjectType, Oid, Repository};

use super::chain::{Link, recorded};
use super::placeholder::Placeholder;

/// Reads a commit whose record's path, record, placeholder, message and author are the parts of `bytes`, divided
/// by zero bytes, and gives all that would be told of it.
pub(crate) fn read_commit(bytes: &[u8]) -> Vec<String> {
    thread_local! {
        static REPOSITORY: Repository = {
            let folder = std::env::temp_dir().join(format!("rekeyd-fed-{}.git", std::process::id()));
            Repository::init_bare(folder).expect("a repository")
        };
    }
    REPOSITORY.with(|repository| told(repository, bytes).unwrap_or_default())
}

fn told(repository: &Repository, bytes: &[u8]) -> Result<Vec<String>, git2::Error> {
    let mut parts = bytes.splitn(5, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (path, record, placeholder, message, author) = (part(), part(), part(), part(), part());
    let odb = repository.odb()?;
    let memory = odb.add_new_mempack_backend(1)?;
    let record = odb.write(ObjectType::Blob, record)?;
    let placeholder_id = odb.write(ObjectType::Blob, placeholder)?;
    // Trees as they are written, so that names may be what no tool would let pass.
    let tree = |entries: &[(&str, &[u8], Oid)]| {
        let mut bytes = Vec::new();
        for (mode, name, id) in entries {
            bytes.extend([mode.as_bytes(), b" ", name, b"\0", id.as_bytes()].concat());
        }
        odb.write(ObjectType::Tree, &bytes)
    };
    let mut names = path.rsplit(|byte| *byte == b'/');
    let mut entry = ("100644", names.next().unwrap_or_default(), record);
    for name in names {
        entry = ("40000", name, tree(&[entry])?);
    }
    let shown = tree(&[("100644", b"orders-db.yaml", placeholder_id)])?;
    let shown = tree(&[("40000", b"orders", shown)])?;
    let root = tree(&[entry, ("40000", b"secrets", shown)])?;
    let commit = [
        format!("tree {root}\nauthor ").as_bytes(),
        author,
        b" <a@example.com> 0 +0000\ncommitter a <a@example.com> 0 +0000\n\n",
        message,
    ]
    .concat();
    let commit = odb.write(ObjectType::Commit, &commit)?;
    let mut told = Vec::new();
    let _ = recorded(repository, commit);
    if let Some(placeholder) = Placeholder::parse(placeholder) {
        told.extend(placeholder.to_string().lines().map(ToOwned::to_owned));
    }
    if let Ok(link) = Link::read(repository, &repository.find_commit(commit)?) {
        told.extend(link.problems.iter().map(ToString::to_string));
    }
    memory.reset()?;
    Ok(told)
}
