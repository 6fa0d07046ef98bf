//! Sends the requests of a recipe, and says what it means where an answer is none of those that it knows.
//!
//! Nothing of an answer's text is passed on but what the recipe reads from it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::OnceCell;

use super::header::{CONTENT_TYPE, DATE, HeaderName, HeaderValue, RETRY_AFTER};
use super::outbound::Outbound;
use super::pace::Paces;
use super::page::Page;
use super::{Deadlines, HeaderMap, Http, Lost, Method, Stage, StatusCode, Url};
use crate::failure::{Failure, FailureClass};
use crate::ident::DnsLabel;
use crate::policy::spec::{TlsMode, TlsSpec};
use crate::recipe::address::{destination, is_base};
use crate::recipe::{Answer, Known, Meaning, RenderProblem, Rendered, Request};

/// The largest answer that is read, in bytes.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// How long to wait where a server asks for it and does not say how long.
const UNTOLD: Duration = Duration::from_secs(1);

/// How long to wait where a server refuses by words alone, at least. GitHub asks for it.
const REFUSED: Duration = Duration::from_secs(60);

/// How many requests are left, and until when.
static REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
static RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// No time that requests are counted within is so long, in seconds, and no year is so early.
const LONGEST_WINDOW: i64 = 366 * 86_400;

/// Where the settings let credentials be used.
pub(crate) type IsFor = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// Whoever sends the requests of one recipe for one policy.
pub(crate) struct Caller {
    /// The recipe's name.
    pub(crate) recipe: DnsLabel,
    /// Where requests go.
    pub(crate) base: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
    /// How long one request may take.
    pub(crate) timeout: Duration,
    /// How many requests a second, and with whose login.
    pub(crate) rate: Option<u32>,
    pub(crate) admin: Option<DnsLabel>,
    pub(crate) outbound: Outbound,
    pub(crate) paces: Arc<Paces>,
    pub(crate) is_for: IsFor,
    pub(crate) http: OnceCell<Http>,
}

impl Caller {
    /// The client that all requests are sent with.
    async fn http(&self, doing: &str) -> Result<&Http, Failure> {
        self.http.get_or_try_init(|| self.client(doing)).await
    }

    async fn client(&self, doing: &str) -> Result<Http, Failure> {
        let invalid = |reason: String, remedy: &'static str| {
            Failure::new(FailureClass::Invalid, doing, reason).with_remedy(remedy)
        };
        let tls =
            TlsSpec { mode: TlsMode::VerifyFull, ca_file: self.ca_file.clone(), allow_plaintext: false };
        let base = self.base.as_deref().filter(|base| is_base(base)).and_then(|base| Url::parse(base).ok());
        let base =
            base.ok_or_else(|| invalid("nothing says where requests go".into(), "write the policy's base"))?;
        let deadlines = Deadlines { request: self.timeout, ..Deadlines::default() };
        Http::guarded(base, &tls, deadlines, MOST_BYTES, self.outbound.clone()).await.map_err(|reason| {
            invalid(reason, "name a PEM file that rekeyd may read and that holds the server's authority")
        })
    }

    /// Sends one request. An answer is an answer, whatever it says, but for one that asks to come back later.
    ///
    /// # Errors
    /// When it was not sent, or its answer is not known.
    pub(crate) async fn send(
        &self,
        request: &Request,
        rendered: Result<Rendered, RenderProblem>,
        page: &Page,
        stage: Stage,
        doing: &str,
    ) -> Result<Answer, Failure> {
        let invalid = |reason: String| {
            Failure::new(FailureClass::Invalid, doing, reason)
                .with_remedy(format!("correct the recipe `{}` or what the policy says for it", self.recipe))
        };
        let rendered = rendered.map_err(|problem| invalid(problem.to_string()))?;
        let url = destination(self.base.as_deref(), &request.path, &rendered.path);
        let mut url = url.map_err(|reason| invalid(reason.into()))?;
        page.ask(&mut url, rendered.query.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let host = url.host_str().unwrap_or_default().to_owned();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if ["admin", "credentials", "session"].iter().any(|name| request.uses(name)) && !(self.is_for)(bare) {
            let reason = format!("the settings do not let the admin credential be used at `{bare}`");
            return Err(Failure::new(FailureClass::Denied, doing, reason)
                .with_remedy("add the host to the credential's `hosts`, if that is meant"));
        }
        let method = Method::from_bytes(rendered.method.as_str().as_bytes()).expect("a token");
        let mut headers = HeaderMap::new();
        for (name, value) in &rendered.headers {
            let header = name.parse::<HeaderName>().ok().zip(HeaderValue::from_str(value).ok());
            let (name, mut value) =
                header.ok_or_else(|| invalid(format!("its header `{name}` cannot be sent")))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        if let Some(body) = &rendered.body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(body.kind));
        }
        let http = self.http(doing).await?;
        let remedy = "check that the server runs and that no firewall is between";
        let failed = |lost: Lost| {
            match lost {
            // The fields are named otherwise here than where a connection's TLS can be chosen.
            Lost::Untrusted { reason, .. } => Failure::new(FailureClass::Invalid, doing, reason).with_remedy(
                "see that `base` is the server's own name, and that `caFile` holds the authority that signed its certificate",
            ),
            lost => lost.into_failure(stage, doing, remedy),
        }
        };
        let mut request = http.request_to(method, url).map_err(failed)?.headers(headers);
        if let Some((user, password)) = &rendered.basic {
            request = request.basic_auth(user.as_str(), Some(password.as_str()));
        }
        if let Some(body) = &rendered.body {
            request = request.body(body.bytes.to_vec());
        }
        let pace = self.paces.of(&host, self.admin.as_ref(), self.rate);
        let _lane = pace.turn().await;
        let answer = http.send(request).await.map_err(failed)?;
        let status = answer.status.as_u16();
        let body = serde_json::from_slice(&answer.body).ok();
        let asked = retry_after(&answer.headers)
            .or_else(|| used_up(status, &answer.headers))
            .or_else(|| says_limit(status, body.as_ref()).then_some(REFUSED));
        if let Some(pause) = asked.filter(|_| matches!(status, 403 | 429 | 503)) {
            pace.pause(pause);
        } else if status == 429 {
            pace.pause(UNTOLD);
        }
        // GitHub refuses in this way who asks too often: that is no missing right.
        if asked.is_some() && answer.status == StatusCode::FORBIDDEN {
            return Err(too_often(doing));
        }
        let kind = answer.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let page = kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/html"));
        Ok(Answer { status, body, page })
    }
}

/// What an answer means that is a failure that the recipe knows.
pub(crate) fn known(known: &Known, doing: &str) -> Failure {
    let class = match known.means {
        Meaning::Unavailable => FailureClass::Unavailable,
        Meaning::Denied => FailureClass::Denied,
        Meaning::Conflict => FailureClass::Conflict,
        Meaning::Invalid => FailureClass::Invalid,
        Meaning::Ambiguous => FailureClass::Ambiguous,
    };
    let failure = Failure::new(class, doing, &known.reason);
    match &known.remedy {
        Some(remedy) => failure.with_remedy(remedy.clone()),
        None => failure,
    }
}

/// What an answer means that the recipe does not know.
pub(crate) fn unknown(answer: &Answer, stage: Stage, doing: &str) -> Failure {
    let failed =
        |class, reason: String, remedy: &'static str| Failure::new(class, doing, reason).with_remedy(remedy);
    let status = answer.status;
    if answer.page && status < 500 {
        let reason = format!("a page for people comes back, with {status}: that is not the provider's API");
        return match stage {
            Stage::Writing if (200..300).contains(&status) => unread(stage, doing, &reason),
            _ => failed(
                FailureClass::Unavailable,
                reason,
                "check what answers there: a gateway, or a login page",
            ),
        };
    }
    match status {
        401 | 403 => failed(
            FailureClass::Denied,
            format!("the provider refuses it with {status}"),
            "look whether the admin credential is in force and has the rights that the recipe names",
        ),
        404 | 405 | 410 => failed(
            FailureClass::Invalid,
            format!("the provider answers {status}: it knows nothing of that kind"),
            "check the policy's parameters, owner and base",
        ),
        409 => failed(
            FailureClass::Conflict,
            "the provider answers 409: something else is in the way".into(),
            "see what there is at the provider",
        ),
        429 => too_often(doing),
        300..400 => failed(
            FailureClass::Invalid,
            format!("the provider answers {status} and sends requests elsewhere, which is not followed"),
            "name the server itself as the target's base",
        ),
        400..500 => failed(
            FailureClass::Invalid,
            format!("the provider takes the request for a mistake and answers {status}"),
            "check the policy's parameters against the provider's documentation",
        ),
        _ => {
            let reason = match (&answer.body, status) {
                (None, 200..300) => "the answer is not JSON".into(),
                (Some(_), 200..300) => "the answer has not what the recipe looks for".into(),
                _ => format!("the provider answers {status}"),
            };
            unread(stage, doing, &reason)
        }
    }
}

fn too_often(doing: &str) -> Failure {
    Failure::new(FailureClass::Unavailable, doing, "the provider says that it is asked too often")
        .with_remedy("lower `limits.requestsPerSecond` of the recipe if that happens often")
}

/// An answer that tells nothing of what happened.
fn unread(stage: Stage, doing: &str, reason: &str) -> Failure {
    match stage {
        Stage::Reading => Failure::new(FailureClass::Unavailable, doing, reason)
            .with_remedy("check that the provider itself answers there, and no gateway for it"),
        Stage::Writing => Failure::new(
            FailureClass::Ambiguous,
            doing,
            format!("{reason}; the change may have taken effect"),
        ),
    }
}

/// How long to wait: seconds, or a date, which counts from the server's own. Nothing of what is neither.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // However long that is, nobody waits for it: the pace has a longest pause.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = |text: &str| jiff::fmt::rfc2822::parse(text).ok().map(|at| at.timestamp());
    let until = date(text)?;
    let Some(from) = headers.get(DATE).and_then(|from| from.to_str().ok()).and_then(date) else {
        return Some(UNTOLD);
    };
    // One that is over asks for no time, and says all the same that it was too often.
    Some(Duration::try_from(until.duration_since(from)).unwrap_or_default())
}

/// How long to wait where a server refuses, and says that of the requests that it allows within a time none is left:
/// until the time is over, in seconds since 1970 by the server's own clock, or in seconds from now.
///
/// See <https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api>.
fn used_up(status: u16, headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &HeaderName| headers.get(name).and_then(|text| text.to_str().ok()).map(str::trim);
    if !matches!(status, 403 | 429) || text(&REMAINING) != Some("0") {
        return None;
    }
    let Some(reset) = text(&RESET).and_then(|text| text.parse::<i64>().ok()) else { return Some(UNTOLD) };
    let left = if reset < LONGEST_WINDOW {
        reset
    } else {
        let now = text(&DATE).and_then(|text| jiff::fmt::rfc2822::parse(text).ok());
        let Some(now) = now else { return Some(UNTOLD) };
        reset.saturating_sub(now.timestamp().as_second())
    };
    // At the very second it may not be over yet.
    Some(Duration::from_secs(u64::try_from(left).unwrap_or_default()).saturating_add(UNTOLD))
}

/// Whether a server refuses for a limit and says so in words alone, as GitHub may for its secondary limits.
///
/// See <https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api#exceeding-the-rate-limit>.
fn says_limit(status: u16, body: Option<&Value>) -> bool {
    let message = body.and_then(|body| body.get("message")?.as_str());
    matches!(status, 403 | 429)
        && message.is_some_and(|text| text.to_ascii_lowercase().contains("rate limit"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "Mon, 30 Nov 2026 12:00:00 GMT";

    fn asked(date: Option<&str>, retry_after: &[u8]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_bytes(retry_after).expect("a header"));
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_str(date).expect("a header"));
        }
        super::retry_after(&headers)
    }

    #[test]
    fn seconds_are_kept_however_many() {
        for (text, seconds) in [
            ("0", 0),
            ("7", 7),
            (" 120 ", 120),
            ("86401", 86_401),
            // More than there are numbers for.
            ("99999999999999999999999", u64::MAX),
        ] {
            assert_eq!(asked(Some(NOW), text.as_bytes()), Some(Duration::from_secs(seconds)), "{text}");
            assert_eq!(asked(None, text.as_bytes()), Some(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn a_date_counts_from_the_servers_own_clock() {
        for (text, seconds) in [
            ("Mon, 30 Nov 2026 12:00:07 GMT", 7),
            ("Mon, 30 Nov 2026 14:00:00 +0100", 3_600),
            (NOW, 0),
            ("Mon, 30 Nov 2026 11:59:00 GMT", 0),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ] {
            assert_eq!(asked(Some(NOW), text.as_bytes()), Some(Duration::from_secs(seconds)), "{text}");
        }
        for date in [None, Some("today")] {
            assert_eq!(asked(date, b"Mon, 30 Nov 2026 12:00:07 GMT"), Some(UNTOLD), "{date:?}");
        }
    }

    #[test]
    fn requests_that_are_used_up_are_waited_for() {
        // Half a minute after `NOW`.
        let at = "1796040030";
        for (status, left, reset, seconds) in [
            (403, "0", at, Some(31)),
            (429, "0", at, Some(31)),
            (403, "0", "45", Some(46)),
            (403, "0", "1796039999", Some(1)),
            (403, "0", "soon", Some(1)),
            // A right that is missing, and what is no refusal.
            (403, "12", at, None),
            (403, "", at, None),
            (401, "0", at, None),
            (200, "0", at, None),
        ] {
            let headers = [(DATE, NOW), (REMAINING.clone(), left), (RESET.clone(), reset)];
            let headers = headers.map(|(name, text)| (name, HeaderValue::from_static(text)));
            let asked = used_up(status, &HeaderMap::from_iter(headers));
            assert_eq!(asked, seconds.map(Duration::from_secs), "{status} {left} {reset}");
        }
    }

    #[test]
    fn a_limit_in_words_is_told_from_a_right_that_is_missing() {
        for (status, message, is_limit) in [
            (403, "You have exceeded a secondary rate limit. Please wait.", true),
            (429, "API Rate Limit exceeded for user ID 1.", true),
            (403, "Resource not accessible by personal access token", false),
            (422, "Rate limit", false),
            (200, "Rate limit", false),
        ] {
            assert_eq!(
                says_limit(status, Some(&json!({"message": message}))),
                is_limit,
                "{status} {message}"
            );
        }
        assert!(!says_limit(403, Some(&json!({"message": 7}))) && !says_limit(403, None));
    }

    #[test]
    fn nonsense_asks_for_nothing() {
        for text in ["", " ", "soon", "-7", "+7", "1.5", "7s", "2026-11-30T12:00:07Z", "1e3"] {
            assert_eq!(asked(Some(NOW), text.as_bytes()), None, "{text}");
        }
        assert_eq!(asked(Some(NOW), b"\xff"), None);
        assert_eq!(super::retry_after(&HeaderMap::new()), None);
    }
}
