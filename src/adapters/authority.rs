//! Who signs certificates, as its files say at the moment: a renewed one is taken with the next rotation.

use std::path::Path;

use zeroize::Zeroizing;

use crate::failure::{Failure, FailureClass};
use crate::ident::DnsLabel;
use crate::secret::Authority;
use crate::settings::AuthoritySettings;

/// A file of PEM is shorter, in bytes.
const LONGEST: u64 = 256 * 1024;

/// Blocks for two small files.
pub(super) fn read(name: &DnsLabel, settings: Option<&AuthoritySettings>) -> Result<Authority, Failure> {
    let invalid = |reason: String, remedy: &'static str| {
        Failure::new(FailureClass::Invalid, format!("use authority {name}"), reason).with_remedy(remedy)
    };
    let settings = settings.ok_or_else(|| {
        invalid("the settings have none of that name".into(), "add it under `authorities` in the settings")
    })?;
    let text = |path: &Path| {
        let read = std::fs::metadata(path).and_then(|about| {
            if about.len() > LONGEST {
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
            std::fs::read_to_string(path).map(Zeroizing::new)
        });
        read.map_err(|error| {
            let reason = format!("{}: {}", path.display(), error.kind());
            invalid(reason, "name a file in PEM that rekeyd may read")
        })
    };
    let (certificate, key) = (text(&settings.certificate_file)?, text(&settings.key_file)?);
    Authority::new(&certificate, &key)
        .map_err(|reason| invalid(reason.into(), "correct the files of the authority"))
}
