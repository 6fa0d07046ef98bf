//! Samples of values that only their readers share.

use serde_json::json;

use super::sample::Sample;
use rekeyd::secret::Credential;

/// Each command makes another value, and every reader has it.
async fn turns(sample: &mut Sample) -> [Credential; 3] {
    sample.check().await;
    let first = sample.turn("rotate").await;
    let second = sample.turn("rotate").await;
    let third = sample.turn("contain").await;
    assert!(first.value != second.value && second.value != third.value && third.value != first.value);
    sample.at.run(&["audit", "verify"]).await.ended(0);
    [first, second, third]
}

pub(super) async fn alone(mut sample: Sample) {
    turns(&mut sample).await;
}

/// A rotation keeps the one before beside it. Where there is none, and where it leaked, the value stands there itself.
pub(super) async fn ring(mut sample: Sample) {
    let [first, second, third] = turns(&mut sample).await;
    let previous = |of: &Credential| {
        let part = of.parts.iter().find(|(name, _)| name.as_str() == "previous");
        part.map(|(_, value)| value.expose_str().expect("text").to_owned())
    };
    let value = |of: &Credential| of.value.expose_str().ok().map(ToOwned::to_owned);
    assert_eq!(previous(&first), value(&first));
    assert_eq!(previous(&second), value(&first));
    assert_eq!(previous(&third), value(&third), "a value that leaked is taken still");
}

pub(super) async fn certificate(mut sample: Sample) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.distinguished_name.push(rcgen::DnType::CommonName, "an authority of a test");
    let authority = params.self_signed(&key).expect("a certificate");
    std::fs::write(sample.at.path("internal.pem"), authority.pem()).expect("a file");
    std::fs::write(sample.at.path("internal.key"), key.serialize_pem()).expect("a file");
    sample.at.change_settings(|settings| {
        let internal = &mut settings["authorities"]["internal"];
        assert!(internal["names"].is_array(), "the settings have no such authority");
        internal["certificateFile"] = json!("internal.pem");
        internal["keyFile"] = json!("internal.key");
    });
    let [first, ..] = turns(&mut sample).await;
    let part =
        |name: &str| first.parts.iter().find(|(part, _)| part.as_str() == name).map(|(_, value)| value);
    let signer = part("authority").and_then(|pem| pem.expose_str().ok());
    assert_eq!(signer.map(str::trim), Some(authority.pem().trim()));
    assert!(part("certificate").is_some());
}
