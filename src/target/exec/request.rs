//! What a plug-in is asked.

use std::fmt;

use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use crate::failure::FailureClass;
use crate::ident::Principal;
use crate::policy::spec::{ExecSpec, Extra};
use crate::secret::Credential;
use crate::target::{
    Attempt, Extent, InstallRequest, MintRequest, Occupancy, PreflightRequest, ProbeDepth, RetireRequest,
};

/// The version of the protocol. A plug-in refuses one that it does not know.
const PROTOCOL: u8 = 1;

/// What a plug-in is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Verb {
    Mint,
    Install,
    Probe,
    Usage,
    Retire,
    Keys,
    Preflight,
}

impl Verb {
    pub(super) const fn changes(self) -> bool {
        matches!(self, Self::Mint | Self::Install | Self::Retire)
    }

    /// What is known where there is no answer.
    pub(super) const fn unknown(self) -> FailureClass {
        if self.changes() { FailureClass::Ambiguous } else { FailureClass::Unavailable }
    }
}

/// One request; what a verb has no use for is absent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request<'a> {
    protocol: u8,
    pub(super) verb: Verb,
    strategy: &'static str,
    /// Those that the policy rotates.
    principals: Vec<&'a Principal>,
    config: &'a Extra,
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<Login<'a>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    attempt: Option<AttemptAsked>,
    #[serde(flatten)]
    about: About<'a>,
}

/// Who asks for a change.
#[derive(Serialize)]
struct AttemptAsked {
    policy: String,
    rotation: String,
    version: u64,
    fence: u64,
}

/// What each verb is about.
#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum About<'a> {
    Mint {
        owner: &'a Principal,
        #[serde(skip_serializing_if = "Option::is_none")]
        outgoing: Option<Login<'a>>,
        repeated: bool,
        contains: bool,
    },
    Install {
        candidate: Login<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        peer: Option<&'a Principal>,
        #[serde(skip_serializing_if = "Option::is_none")]
        beside: Option<Login<'a>>,
        occupancy: &'static str,
    },
    Probe {
        credential: Login<'a>,
        depth: &'static str,
    },
    Usage {
        principal: &'a Principal,
    },
    Retire {
        principal: &'a Principal,
        extent: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        before: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        outgoing: Option<Login<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        beside: Option<Login<'a>>,
    },
    Keys {
        owner: &'a Principal,
    },
    Preflight {
        policy: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        current: Option<Login<'a>>,
    },
}

/// A principal and its value.
struct Login<'a>(&'a Credential);

impl Serialize for Login<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            principal: &'a Principal,
            value: &'a str,
        }
        let value = self.0.value.expose_str().map_err(serde::ser::Error::custom)?;
        Shown { principal: &self.0.principal, value }.serialize(serializer)
    }
}

/// The request cannot be written down.
#[derive(Debug)]
pub(super) struct NotText;

impl fmt::Display for NotText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value is not text, and plug-ins take no other")
    }
}

impl<'a> Request<'a> {
    pub(super) fn bytes(&self) -> Result<Zeroizing<Vec<u8>>, NotText> {
        serde_json::to_vec(self).map(Zeroizing::new).map_err(|_| NotText)
    }

    fn new(
        verb: Verb,
        spec: &'a ExecSpec,
        admin: Option<&'a Credential>,
        attempt: Option<Attempt<'_>>,
        about: About<'a>,
    ) -> Self {
        Self {
            protocol: PROTOCOL,
            verb,
            strategy: spec.strategy.as_str(),
            principals: spec.strategy.principals(),
            config: &spec.config,
            admin: admin.map(Login),
            attempt: attempt.map(|attempt| AttemptAsked {
                policy: attempt.policy.to_string(),
                rotation: attempt.rotation.to_string(),
                version: attempt.version.number(),
                fence: attempt.fence.number(),
            }),
            about,
        }
    }

    pub(super) fn install(
        spec: &'a ExecSpec,
        admin: Option<&'a Credential>,
        request: &InstallRequest<'a>,
    ) -> Self {
        let occupancy = match request.occupancy {
            Occupancy::Refuse => "refuse",
            Occupancy::Close => "close",
            Occupancy::Keep => "keep",
        };
        let about = About::Install {
            candidate: Login(request.candidate),
            peer: request.peer,
            beside: request.beside.map(Login),
            occupancy,
        };
        Self::new(Verb::Install, spec, admin, Some(request.attempt), about)
    }

    pub(super) fn mint(spec: &'a ExecSpec, admin: Option<&'a Credential>, request: &MintRequest<'a>) -> Self {
        let about = About::Mint {
            owner: request.owner,
            outgoing: request.outgoing.map(Login),
            repeated: request.repeated,
            contains: request.contains,
        };
        Self::new(Verb::Mint, spec, admin, Some(request.attempt), about)
    }

    pub(super) fn probe(
        spec: &'a ExecSpec,
        admin: Option<&'a Credential>,
        credential: &'a Credential,
        depth: ProbeDepth,
    ) -> Self {
        let depth = match depth {
            ProbeDepth::Login => "login",
            ProbeDepth::Check => "check",
        };
        Self::new(Verb::Probe, spec, admin, None, About::Probe { credential: Login(credential), depth })
    }

    pub(super) fn usage(spec: &'a ExecSpec, admin: Option<&'a Credential>, principal: &'a Principal) -> Self {
        Self::new(Verb::Usage, spec, admin, None, About::Usage { principal })
    }

    pub(super) fn keys(spec: &'a ExecSpec, admin: Option<&'a Credential>, owner: &'a Principal) -> Self {
        Self::new(Verb::Keys, spec, admin, None, About::Keys { owner })
    }

    pub(super) fn retire(
        spec: &'a ExecSpec,
        admin: Option<&'a Credential>,
        request: &RetireRequest<'a>,
    ) -> Self {
        let (extent, before) = match request.extent {
            Extent::Principal => ("principal", None),
            // As many digits as a timestamp can have, so that texts can be compared.
            Extent::SessionsBefore(moment) => ("sessionsBefore", Some(format!("{moment:.9}"))),
            Extent::OtherValues => ("otherValues", None),
            Extent::Attempt => ("attempt", None),
            Extent::Disabled => ("disabled", None),
        };
        let about = About::Retire {
            principal: request.principal,
            extent,
            before,
            outgoing: request.outgoing.map(Login),
            beside: request.beside.map(Login),
        };
        Self::new(Verb::Retire, spec, admin, Some(request.attempt), about)
    }

    pub(super) fn preflight(
        spec: &'a ExecSpec,
        admin: Option<&'a Credential>,
        request: &PreflightRequest<'a>,
    ) -> Self {
        let about =
            About::Preflight { policy: request.policy.to_string(), current: request.current.map(Login) };
        Self::new(Verb::Preflight, spec, admin, None, about)
    }
}
