//! Tokens of a Slack app with token rotation, after https://docs.slack.dev/authentication/using-token-rotation,
//! https://docs.slack.dev/reference/methods/oauth.v2.access, /auth.test and /auth.revoke.
//!
//! The documentation does not say whether a token dies when its successor is made: here it lives on, which asks more of
//! whoever rotates. Its twelve hours pass while it is tried a few times beside its successor.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use super::{Keys, Provider, Reply, Request};

/// Whoever holds it can tell it how to answer, while a server has it.
#[derive(Clone)]
pub(crate) struct Slack(Arc<Mutex<App>>);

struct App {
    client: &'static str,
    secret: &'static str,
    /// The one refresh token that works.
    refresh: String,
    /// What the next call of a method is answered with instead.
    error: Option<(&'static str, &'static str)>,
    /// How often tokens with a successor may be tried yet.
    left: HashMap<String, u32>,
    /// Whether a revocation took the bot out of its channels.
    deactivated: bool,
}

/// How often a token may be tried once it has a successor.
const LIVES_ON: u32 = 3;

impl Slack {
    pub(crate) fn new(client: &'static str, secret: &'static str) -> Self {
        Self(Arc::new(Mutex::new(App {
            client,
            secret,
            refresh: String::new(),
            error: None,
            left: HashMap::new(),
            deactivated: false,
        })))
    }

    fn app(&self) -> MutexGuard<'_, App> {
        self.0.lock().expect("no panic")
    }

    /// Gives a pair out, as the installation of an app does.
    pub(crate) fn install(&self, keys: &mut Keys) -> (String, String) {
        self.app().install(keys)
    }

    /// Whether the bot is out of its channels since it was asked last; somebody invites it again.
    pub(crate) fn lost_its_channels(&self) -> bool {
        std::mem::take(&mut self.app().deactivated)
    }

    /// Answers the next call of a method with an error.
    pub(crate) fn fails(&self, method: &'static str, error: &'static str) {
        self.app().error = Some((method, error));
    }
}

impl App {
    fn install(&mut self, keys: &mut Keys) -> (String, String) {
        self.refresh = format!("xoxe-1-{}", random());
        (keys.make("", "xoxe.xoxb-1-", "", Value::Null).value, self.refresh.clone())
    }
}

impl Provider for Slack {
    fn answer(&mut self, keys: &mut Keys, request: &Request) -> Reply {
        let (method, path) = request.asked();
        let ("POST", ["api", call]) = (method, path.as_slice()) else { return Reply::nothing_there() };
        let mut app = self.app();
        if let Some((_, error)) = app.error.take_if(|(of, _)| of == call) {
            return failed(error);
        }
        match *call {
            "oauth.v2.access" => {
                let form = request.form();
                let said = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
                if said("client_id") != app.client || said("client_secret") != app.secret {
                    return failed("bad_client_secret");
                }
                if said("grant_type") != "refresh_token" {
                    return failed("invalid_grant_type");
                }
                if said("refresh_token") != app.refresh {
                    return failed("invalid_refresh_token");
                }
                for key in &keys.made {
                    app.left.entry(key.value.clone()).or_insert(LIVES_ON);
                }
                let (token, refresh) = app.install(keys);
                Reply::new(
                    200,
                    json!({"ok": true, "access_token": token, "refresh_token": refresh,
                                       "expires_in": 43_200, "token_type": "bot", "team": {"id": "T1"}}),
                )
            }
            _ if request.bearer().is_empty() => failed("not_authed"),
            "auth.test" if app.left.get(request.bearer()) == Some(&0) => {
                keys.remove(|one| one.value == request.bearer());
                failed("token_expired")
            }
            "auth.test" => match keys.is_used(request.bearer()) {
                Some(key) if app.left.contains_key(&key.value) => {
                    app.left.entry(key.value).and_modify(|left| *left -= 1);
                    Reply::new(200, json!({"ok": true, "user_id": "U1", "team_id": "T1"}))
                }
                Some(_) => Reply::new(200, json!({"ok": true, "user_id": "U1", "team_id": "T1"})),
                // One that it gave out once.
                None if request.bearer().starts_with("xoxe.xoxb-1-") => failed("token_revoked"),
                None => failed("invalid_auth"),
            },
            "auth.revoke" => match keys.is_used(request.bearer()) {
                Some(key) => {
                    app.deactivated = true;
                    keys.remove(|one| one.value == key.value);
                    Reply::new(200, json!({"ok": true, "revoked": true}))
                }
                None => failed("token_revoked"),
            },
            _ => failed("unknown_method"),
        }
    }
}

fn random() -> String {
    rekeyd::secret::ValueSpec::default().generate().expose_str().expect("text").to_owned()
}

fn failed(error: &str) -> Reply {
    Reply::new(200, json!({"ok": false, "error": error}))
}
