//! The rules of what a generated value looks like, and of the parts that it comes with.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{Breaches, Surroundings, field};
use crate::ident::{DnsLabel, PartName};
use crate::policy::diagnostic::{Problem, choose};
use crate::policy::shape::FieldPath;
use crate::policy::spec::{ConsumerSpec, Interval, Spec, TargetSpec};
use crate::policy::validate::rule::Rule;
use crate::secret::{CertificateSpec, CertificateUsage, LONGEST_CERTIFICATE, Unsatisfiable, ValueSpec};
use crate::settings::Settings;
use crate::template::Template;

/// The shortest time that a certificate is valid for.
const SHORTEST_CERTIFICATE: Interval = Interval::from_duration(std::time::Duration::from_secs(600));

/// The longest name in a certificate.
const LONGEST_NAME: usize = 253;

/// What is wrong with a value, or its parts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueProblem {
    #[error("{0}")]
    Unsatisfiable(Unsatisfiable),
    #[error("a key has no characters to choose")]
    CharactersOfKey,
    #[error("a value is an SSH key or a key with a certificate")]
    TwoKeys,
    #[error("a target takes a value of characters, and this is a key")]
    KeyForTarget,
    #[error("a key before is kept of values of characters only")]
    RingOfKeys,
    #[error("a comment is one line of up to 128 characters")]
    Comment,
    #[error("a certificate without a name is nobody's")]
    Nobody,
    #[error("a certificate without `usages` is for nothing")]
    NoUsage,
    #[error("`{0}` cannot stand in a certificate")]
    NotAName(String),
    #[error("a certificate is valid for {SHORTEST_CERTIFICATE} to {LONGEST_CERTIFICATE}, and this says {0}")]
    Validity(Interval),
    #[error("the authority `{authority}` signs certificates for up to {longest}")]
    BeyondAuthority { authority: DnsLabel, longest: Interval },
    #[error("there is no authority `{name}`")]
    UnknownAuthority { name: DnsLabel, known: Vec<DnsLabel> },
    #[error("the settings do not let the authority `{authority}` sign for `{name}`")]
    NotPermitted { authority: DnsLabel, name: String },
    #[error("the settings do not let the authority `{authority}` sign what is for a `{}`", usage.as_str())]
    UsageNotPermitted { authority: DnsLabel, usage: CertificateUsage },
    #[error("the value has no part `{name}`")]
    UnknownPart { name: PartName, known: Vec<PartName> },
    #[error("another field of the value has the key `{0}`")]
    KeyTaken(String),
}

impl ValueProblem {
    pub(in crate::policy::validate) const fn rests_on_settings(&self) -> bool {
        matches!(
            self,
            Self::UnknownAuthority { .. }
                | Self::NotPermitted { .. }
                | Self::UsageNotPermitted { .. }
                | Self::BeyondAuthority { .. }
        )
    }
}

impl Problem for ValueProblem {
    fn remedy(&self) -> Cow<'static, str> {
        match self {
            Self::Unsatisfiable(problem) => match problem {
                Unsatisfiable::NotASymbol(_) => "letters and digits are chosen by `alphabet`".into(),
                Unsatisfiable::Rare | Unsatisfiable::TooMany { .. } => {
                    "ask for fewer characters, or for a longer value".into()
                }
                _ => "correct `symbols`, `without` or `atLeast`".into(),
            },
            Self::CharactersOfKey => "leave the other fields out".into(),
            Self::TwoKeys => "leave one of them out".into(),
            Self::KeyForTarget => "use the target `generated`, or a recipe that hands keys over".into(),
            Self::RingOfKeys => "leave `ring` out".into(),
            Self::Comment => "shorten it".into(),
            Self::Nobody => "write `dnsNames`, `ipAddresses`, `uris` or `commonName`".into(),
            Self::NoUsage => "write `server`, `client` or both".into(),
            Self::NotAName(_) => "write names of hosts, and whole URIs".into(),
            Self::Validity(_) => "use a time between these".into(),
            Self::BeyondAuthority { .. } => "use a shorter time, or have it changed in the settings".into(),
            Self::UnknownAuthority { name, known } => {
                choose(name.as_str(), known.iter().map(DnsLabel::as_str)).into()
            }
            Self::NotPermitted { authority, .. } => {
                format!("have the name added to `authorities.{authority}.names` in the settings").into()
            }
            Self::UsageNotPermitted { authority, .. } => {
                format!("leave it out, or have it added to `authorities.{authority}.usages` in the settings")
                    .into()
            }
            Self::UnknownPart { known, .. } if known.is_empty() => {
                "only keys that rekeyd makes, rings and some recipes have parts".into()
            }
            Self::UnknownPart { name, known } => {
                choose(name.as_str(), known.iter().map(PartName::as_str)).into()
            }
            Self::KeyTaken(_) => "give each its own under `store.fields`".into(),
        }
    }
}

/// What a value looks like.
pub(super) fn rules(spec: &Spec, around: &Surroundings<'_>, found: &mut Breaches) {
    let (value, at) = (&spec.value, field(["spec", "value"]));
    let is_key = value.ssh_key.is_some() || value.certificate.is_some();
    let ring = matches!(&spec.target, TargetSpec::Generated(generated) if generated.ring);
    if !is_key {
        return characters(value, &at, found);
    }
    let plain = ValueSpec { ssh_key: None, certificate: None, ..value.clone() };
    if plain != ValueSpec::default() {
        found.add(at.clone(), Rule::Value(ValueProblem::CharactersOfKey));
    }
    if value.ssh_key.is_some() && value.certificate.is_some() {
        found.add(at.join("sshKey"), Rule::Value(ValueProblem::TwoKeys));
    }
    if !matches!(spec.target, TargetSpec::Generated(_)) {
        found.add(at.clone(), Rule::Value(ValueProblem::KeyForTarget));
    }
    if ring {
        let at = field(["spec", "target", "generated", "ring"]);
        found.add(at, Rule::Value(ValueProblem::RingOfKeys));
    }
    if let Some(key) = &value.ssh_key
        && (key.comment.len() > 128 || key.comment.chars().any(char::is_control))
    {
        found.add(at.join("sshKey").join("comment"), Rule::Value(ValueProblem::Comment));
    }
    if let Some(certificate) = &value.certificate {
        certificate_rules(certificate, &at.join("certificate"), around, found);
    }
}

fn characters(value: &ValueSpec, at: &FieldPath, found: &mut Breaches) {
    let Err(problem) = value.check() else { return };
    let (field, rule) = match problem {
        Unsatisfiable::Length(length) => ("length", Rule::ValueLength(length)),
        Unsatisfiable::Guessable(bits) => ("length", Rule::ValueGuessable(bits)),
        problem => {
            let field = match problem {
                Unsatisfiable::NotASymbol(_) => "symbols",
                Unsatisfiable::Nothing => "without",
                Unsatisfiable::NoLetter => "startsWithLetter",
                _ => "atLeast",
            };
            (field, Rule::Value(ValueProblem::Unsatisfiable(problem)))
        }
    };
    found.add(at.join(field), rule);
}

fn certificate_rules(
    spec: &CertificateSpec,
    at: &FieldPath,
    around: &Surroundings<'_>,
    found: &mut Breaches,
) {
    let mut add = |at: FieldPath, problem| found.add(at, Rule::Value(problem));
    let short = |text: &str| text.chars().take(64).collect::<String>();
    if spec.names().next().is_none() && spec.uris.is_empty() {
        add(at.clone(), ValueProblem::Nobody);
    }
    if spec.usages.is_empty() {
        add(at.join("usages"), ValueProblem::NoUsage);
    }
    let is_text = |text: &str| {
        !text.trim().is_empty() && text.len() <= LONGEST_NAME && !text.chars().any(char::is_control)
    };
    if let Some(name) = spec.common_name.as_ref().filter(|name| !is_text(name) || name.chars().count() > 64) {
        add(at.join("commonName"), ValueProblem::NotAName(short(name)));
    }
    for (index, name) in spec.dns_names.iter().enumerate() {
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let host = name.strip_prefix("*.").unwrap_or(name);
        if !is_text(name) || !host.split('.').all(label) {
            add(at.join("dnsNames").join(index), ValueProblem::NotAName(short(name)));
        }
    }
    for (index, uri) in spec.uris.iter().enumerate() {
        // What a prefix permits must not lead out of it again.
        let is_plain = url::Url::parse(uri).is_ok_and(|url| url.as_str() == uri);
        if !is_text(uri) || !uri.is_ascii() || !is_plain {
            add(at.join("uris").join(index), ValueProblem::NotAName(short(uri)));
        }
    }
    if !(SHORTEST_CERTIFICATE..=LONGEST_CERTIFICATE).contains(&spec.valid_for) {
        add(at.join("validFor"), ValueProblem::Validity(spec.valid_for));
    }
    let Some(authority) = &spec.authority else { return };
    if around.resources.is_some_and(|resources| resources.confined) {
        found.add(at.join("authority"), Rule::LoginOfResource("certificates"));
        return;
    }
    let Some(settings) = around.settings.authorities.get(authority) else {
        let known = around.settings.authorities.keys().cloned().collect();
        add(at.join("authority"), ValueProblem::UnknownAuthority { name: authority.clone(), known });
        return;
    };
    if spec.valid_for > settings.longest {
        let (authority, longest) = (authority.clone(), settings.longest);
        add(at.join("validFor"), ValueProblem::BeyondAuthority { authority, longest });
    }
    for (index, usage) in spec.usages.iter().enumerate().filter(|(_, usage)| !settings.usages.contains(usage))
    {
        let (authority, usage) = (authority.clone(), *usage);
        add(at.join("usages").join(index), ValueProblem::UsageNotPermitted { authority, usage });
    }
    let names = spec.names().filter(|name| !settings.permits(name));
    for name in names.chain(spec.uris.iter().filter(|uri| !settings.permits_uri(uri)).cloned()) {
        let (authority, name) = (authority.clone(), short(&name));
        add(at.join("authority"), ValueProblem::NotPermitted { authority, name });
    }
}

/// Templates and the store name parts that there are, under keys of their own.
pub(super) fn parts(spec: &Spec, settings: &Settings, found: &mut Breaches) {
    let known = spec.part_names();
    let unknown =
        |name: &PartName| Rule::Value(ValueProblem::UnknownPart { name: name.clone(), known: known.clone() });
    let at = field(["spec", "store", "fields", "parts"]);
    let fields = &spec.store.fields;
    let mut taken: Vec<&str> = vec![&fields.principal, &fields.value];
    taken.extend(spec.store.extra.keys().map(String::as_str));
    for name in &known {
        let key = fields.parts.get(name).map_or(name.as_str(), String::as_str);
        let at = if fields.parts.contains_key(name) {
            at.join(name.to_string())
        } else {
            field(["spec", "store", "fields"])
        };
        found.text(&at, key);
        // An embedded store keeps parts by their names: no key is taken there.
        let has_keys = settings.stores.get(&spec.store.name).is_none_or(|store| store.keeps_fields());
        if has_keys && taken.contains(&key) {
            found.add(at, Rule::Value(ValueProblem::KeyTaken(key.chars().take(64).collect())));
        }
        taken.push(key);
    }
    for name in fields.parts.keys().filter(|name| !known.contains(name)) {
        found.add(at.join(name.to_string()), unknown(name));
    }
    for (index, consumer) in spec.consumers.iter().enumerate() {
        let at = field(["spec", "consumers"]).join(index);
        for (steps, source) in consumer.templates() {
            // What is no template is told elsewhere.
            let Ok(template) = Template::parse(source) else { continue };
            let at = steps.iter().fold(at.clone(), |at, step| at.join(step.clone()));
            for name in template.parts().iter().filter(|name| !known.contains(name)) {
                found.add(at.clone(), unknown(name));
            }
        }
    }
}

impl ConsumerSpec {
    /// The templates in it, and where each stands.
    fn templates(&self) -> Vec<(Vec<String>, &str)> {
        match self {
            Self::File(file) => vec![(vec!["file".into(), "content".into()], &file.content)],
            Self::Kubernetes(one) => of_data("kubernetes", &one.data),
            Self::Vault(one) => of_data("vault", &one.data),
            Self::AwsSecretsManager(one) => of_data("awsSecretsManager", &one.data),
            Self::Http(http) => vec![(vec!["http".into(), "content".into()], &http.content)],
            Self::Jenkins(jenkins) => jenkins.template().into_iter().collect(),
        }
    }
}

fn of_data<'a>(kind: &str, data: &'a BTreeMap<String, String>) -> Vec<(Vec<String>, &'a str)> {
    let place = |key: &String| vec![kind.to_owned(), "data".into(), key.clone()];
    data.iter().map(|(key, template)| (place(key), template.as_str())).collect()
}
