//! The sealing key: where it is read from, and who else may read it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::failure::{Failure, FailureClass};
use crate::settings::{KeySource, credentials_directory};

/// Bytes of a key.
pub(super) const KEY_SIZE: usize = 32;

/// A file that is longer holds no key.
const LONGEST_FILE: u64 = 256;

/// The key that every value of a store is sealed with.
pub(super) struct Key(Zeroizing<[u8; KEY_SIZE]>);

impl Key {
    /// Reads the key.
    ///
    /// # Errors
    /// `Invalid` when there is none, when others may read it, or when the text is not a key.
    pub(super) fn load(source: &KeySource) -> Result<Self, Failure> {
        match source {
            KeySource::File(path) => Self::read(path, Access::OwnerAlone),
            KeySource::SystemdCredential(name) => {
                Self::read(&credential_path(name, credentials_directory())?, Access::Service)
            }
        }
    }

    /// Writes a new key to a new file that only its owner may read. Durable when it returns; a process
    /// that dies before leaves an incomplete file, which [`Key::load`] refuses.
    ///
    /// # Errors
    /// `Conflict` when there is a file already: a key that sealed something must not be lost.
    pub(super) fn generate_file(path: &Path) -> Result<(), Failure> {
        let doing = || format!("create key file {}", path.display());
        let mut key = Zeroizing::new([0; KEY_SIZE]);
        getrandom::fill(&mut *key).expect("the operating system has a random source");
        let mut text = Zeroizing::new(String::with_capacity(2 * KEY_SIZE + 1));
        for byte in *key {
            text.push(char::from_digit(u32::from(byte >> 4), 16).expect("below 16"));
            text.push(char::from_digit(u32::from(byte & 15), 16).expect("below 16"));
        }
        text.push('\n');

        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Failure::new(FailureClass::Conflict, doing(), "there is a file already")
                    .with_remedy("a key that sealed a store must be kept: choose another path"));
            }
            Err(error) => return Err(Failure::new(FailureClass::Invalid, doing(), error)),
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| File::open(folder.unwrap_or(Path::new(".")))?.sync_all())
            .map_err(|error| Failure::new(FailureClass::Unavailable, doing(), error))
    }

    pub(super) fn as_bytes(&self) -> &[u8; KEY_SIZE] {
        &self.0
    }

    fn read(path: &Path, access: Access) -> Result<Self, Failure> {
        let failure = |reason: String| {
            Failure::new(FailureClass::Invalid, format!("read key file {}", path.display()), reason)
        };
        // The last component is not followed when it is a link, and a pipe does not block the opening.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file =
            OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).map_err(
                |error| match error.raw_os_error() {
                    Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => {
                        failure("it is a symbolic link".into())
                            .with_remedy("name the file itself, which only rekeyd's own user may read")
                    }
                    _ if error.kind() == std::io::ErrorKind::PermissionDenied => {
                        failure(error.to_string()).with_remedy("run rekeyd as the user who owns the key")
                    }
                    _ => failure(error.to_string()).with_remedy(
                        "restore it from your backup, or create one with `rekeyd keygen` for a new store",
                    ),
                },
            )?;
        // What was opened is looked at, so nobody can put another file in its place in between.
        let metadata = file.metadata().map_err(|error| failure(error.to_string()))?;
        if !metadata.is_file() {
            return Err(failure("it is not a regular file".into()));
        }
        access.check(&metadata).map_err(|reason| {
            failure(reason).with_remedy(format!(
                "run `chown {} {path} && chmod 600 {path}`; if others could read it, make a new store with a new key",
                rustix::process::geteuid().as_raw(),
                path = path.display(),
            ))
        })?;
        let mut text = Zeroizing::new(Vec::with_capacity(LONGEST_FILE as usize + 1));
        file.take(LONGEST_FILE + 1).read_to_end(&mut text).map_err(|error| failure(error.to_string()))?;
        parse(&text).map(Self).ok_or_else(|| {
            failure("it does not hold 64 hexadecimal digits or 44 characters of base64".into())
                .with_remedy("restore it from your backup; a new key cannot open an existing store")
        })
    }
}

/// Who may read a key file.
#[derive(Clone, Copy)]
enum Access {
    /// Its owner, who is us.
    OwnerAlone,
    /// Whoever systemd gives it to: it owns the file, and grants us by an access list that shows as
    /// group bits.
    Service,
}

impl Access {
    fn check(self, metadata: &std::fs::Metadata) -> Result<(), String> {
        let mode = metadata.mode() & 0o7777;
        match self {
            Self::OwnerAlone if metadata.uid() != rustix::process::geteuid().as_raw() => {
                Err(format!("it belongs to user {} and not to rekeyd's own", metadata.uid()))
            }
            Self::OwnerAlone if !matches!(mode, 0o600 | 0o400) => {
                Err(format!("its mode is {mode:04o} and must be 0600 or 0400"))
            }
            Self::Service if mode & 0o007 != 0 => {
                Err(format!("its mode is {mode:04o}: everybody may read it"))
            }
            Self::OwnerAlone | Self::Service => Ok(()),
        }
    }
}

fn credential_path(name: &str, folder: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let failure = |reason| {
        Failure::new(
            FailureClass::Invalid,
            format!("read systemd credential `{}`", name.escape_default()),
            reason,
        )
    };
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(failure("that is not the name of a credential"));
    }
    folder.map(|folder| folder.join(name)).ok_or_else(|| {
        failure("systemd did not hand over any")
            .with_remedy("add `LoadCredentialEncrypted=` with this name to the unit, or use a key file")
    })
}

/// Reads 64 hexadecimal digits or 44 characters of base64; one final newline is allowed.
fn parse(text: &[u8]) -> Option<Zeroizing<[u8; KEY_SIZE]>> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let mut key = Zeroizing::new([0; KEY_SIZE]);
    if text.len() == 2 * KEY_SIZE {
        for (byte, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
            let digit = |index: usize| char::from(pair[index]).to_digit(16);
            *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
        }
        return Some(key);
    }
    // The decoder wants room for every whole group of four before it looks at the padding.
    let mut decoded = Zeroizing::new([0; KEY_SIZE + 1]);
    match STANDARD.decode_slice(text, &mut *decoded) {
        Ok(KEY_SIZE) => {
            key.copy_from_slice(&decoded[..KEY_SIZE]);
            Some(key)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_written_forms_are_the_same_key() {
        let bytes: [u8; KEY_SIZE] = std::array::from_fn(|index| (index * 7) as u8);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        for text in [hex.clone(), hex.to_uppercase(), format!("{hex}\n"), STANDARD.encode(bytes)] {
            assert_eq!(parse(text.as_bytes()).as_deref(), Some(&bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        let hex = "0".repeat(64);
        for text in ["", "00", &hex[1..], &format!("{hex}0"), &hex.replace("00", "0g"), &"A".repeat(44)] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_credential_name_cannot_leave_its_folder() {
        let folder = || Some(PathBuf::from("/run/credentials/rekeyd.service"));
        for name in ["", "..", "../x", "a/b", ".x"] {
            assert!(credential_path(name, folder()).is_err(), "{name:?} was taken");
        }
        assert_eq!(
            credential_path("key", folder()).expect("a path"),
            PathBuf::from("/run/credentials/rekeyd.service/key")
        );
        assert_eq!(credential_path("key", None).map_err(|f| f.class()), Err(FailureClass::Invalid));
    }
}
