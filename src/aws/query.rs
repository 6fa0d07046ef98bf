//! Calls of IAM and STS, in the query protocol: a form is posted, and XML comes back.
//!
//! They are signed here: the drivers of the two services would be many times the code of this program. A call is
//! made once. Errors are told apart by their code; no text of the service goes any further, for it may quote what was
//! sent.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials as _;
use aws_credential_types::provider::error::CredentialsError;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use reqwest::Url;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::connection::{Answer, Connection, Silence};
use super::login::Login;
use super::xml;
use crate::clock::{Clock as _, SystemClock};
use crate::failure::{Failure, FailureClass};
use crate::settings::{AwsSettings, Partition};

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// A login that ends sooner is not used any more.
const SOON: Duration = Duration::from_secs(10);

/// An account, and rekeyd's login there.
pub(crate) struct Account {
    connection: Connection,
    login: Login,
    kept: Mutex<Option<Credentials>>,
    iam: Service,
    sts: Service,
}

/// A service of the query protocol.
struct Service {
    name: &'static str,
    version: &'static str,
    url: String,
    /// What requests are signed for.
    region: String,
}

/// A key to sign a call with, in the place of rekeyd's own login.
pub(crate) struct Key<'a> {
    pub(crate) id: &'a str,
    pub(crate) secret: &'a str,
}

/// What the service answered with.
#[derive(Debug)]
pub(crate) enum Reply {
    /// It did what it was asked for.
    Done(xml::Elements),
    /// It did nothing.
    Refused { code: String, is_skew: bool, status: u16 },
}

/// A call without an answer of the service.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// There is nothing to sign with.
    NoLogin,
    /// Whoever gives out logins was not reached, or gave none.
    LoginFailed,
    Silence(Silence),
    /// It was asked and failed, and may have done something by then.
    Failed(u16),
    /// The answer is of somebody else, or broken off.
    Strange,
}

impl Account {
    /// Reads the file of authorities, and nothing else yet.
    ///
    /// # Errors
    /// `Invalid` when the settings are wrong.
    pub(crate) fn open(settings: &AwsSettings) -> Result<Self, Failure> {
        let invalid = |reason: String| Failure::new(FailureClass::Invalid, "use IAM", reason);
        let connection = Connection::new(settings).map_err(invalid)?;
        let service = |name, version, given: &Option<String>, place: (String, String)| -> Result<_, String> {
            let (usual, region) = place;
            let url = given.as_deref().unwrap_or(&usual);
            // As it is sent: what is signed is the host that stands there.
            let url = Url::parse(url).map_err(|_| format!("the address of {name} is not a URL"))?;
            Ok(Service { name, version, url: url.to_string(), region })
        };
        let (region, partition) = (settings.region.as_str(), settings.partition());
        Ok(Self {
            login: Login::new(settings, connection.clone()),
            kept: Mutex::new(None),
            iam: service("iam", "2010-05-08", &settings.iam_endpoint, iam_of(partition)).map_err(invalid)?,
            sts: service("sts", "2011-06-15", &settings.sts_endpoint, sts_of(region, partition))
                .map_err(invalid)?,
            connection,
        })
    }

    /// Calls IAM as rekeyd.
    pub(crate) async fn iam(&self, action: &str, fields: &[(&str, &str)]) -> Result<Reply, Trouble> {
        let credentials = self.credentials().await?;
        let reply = self.call(&self.iam, &credentials, action, fields).await;
        if let Ok(Reply::Refused { code, .. }) = &reply
            && is_of_login(code)
        {
            // The file may hold another by now.
            *self.kept.lock().await = None;
        }
        reply
    }

    /// Who a key belongs to, asked with the key itself.
    pub(crate) async fn caller(&self, key: Key<'_>) -> Result<Reply, Trouble> {
        let credentials = Credentials::new(key.id, key.secret, None, None, "rekeyd");
        self.call(&self.sts, &credentials, "GetCallerIdentity", &[]).await
    }

    async fn credentials(&self) -> Result<Credentials, Trouble> {
        let mut kept = self.kept.lock().await;
        if let Some(credentials) = &*kept
            && credentials.expiry().is_some_and(|end| end > now() + SOON)
        {
            return Ok(credentials.clone());
        }
        let found = self.login.provide_credentials().await.map_err(|error| match error {
            CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
                Trouble::NoLogin
            }
            _ => Trouble::LoginFailed,
        })?;
        *kept = Some(found.clone());
        Ok(found)
    }

    async fn call(
        &self,
        service: &Service,
        credentials: &Credentials,
        action: &str,
        fields: &[(&str, &str)],
    ) -> Result<Reply, Trouble> {
        let fixed = [("Action", action), ("Version", service.version)];
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fixed.iter().chain(fields))
            .finish();
        let headers = service.signed(credentials, &body).ok_or(Trouble::NoLogin)?;
        let answer = self.connection.post(&service.url, headers, body).await.map_err(Trouble::Silence)?;
        read(answer, action)
    }
}

impl Service {
    /// The headers of a request, its signature among them; `None` when the login cannot be written there.
    fn signed(&self, credentials: &Credentials, body: &str) -> Option<Vec<(String, String)>> {
        let identity = credentials.clone().into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.name)
            .time(now())
            .settings(SigningSettings::default())
            .build()
            .expect("everything is set")
            .into();
        let kind = [("content-type", FORM)];
        let request =
            SignableRequest::new("POST", &*self.url, kind.into_iter(), SignableBody::Bytes(body.as_bytes()))
                .ok()?;
        let signed = sign(request, &parameters).ok()?;
        let (instructions, _) = signed.into_parts();
        let (headers, _) = instructions.into_parts();
        let own = kind.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let added = headers.iter().map(|header| (header.name().to_owned(), header.value().to_owned()));
        Some(own.into_iter().chain(added).collect())
    }
}

fn read(answer: Answer, action: &str) -> Result<Reply, Trouble> {
    let (status, body) = (answer.status, Zeroizing::new(answer.body));
    let elements = std::str::from_utf8(&body).ok().and_then(xml::Elements::of);
    match status {
        200..=299 => {
            let own = elements.filter(|elements| elements.kind().strip_suffix("Response") == Some(action));
            own.map(Reply::Done).ok_or(Trouble::Strange)
        }
        500.. => Err(Trouble::Failed(status)),
        _ => {
            let Some(code) = elements.as_ref().and_then(|elements| elements.text("Code")) else {
                // Something in between: the service did not get it.
                return Ok(Reply::Refused { code: String::new(), is_skew: false, status });
            };
            let message = elements.as_ref().and_then(|elements| elements.text("Message")).unwrap_or_default();
            Ok(Reply::Refused { code: code.to_owned(), is_skew: is_skew(code, message), status })
        }
    }
}

/// Whether a service says that the clock of this machine is off. Most say of such a signature what they say of a wrong
/// one, and only the text tells which it is.
pub(crate) fn is_skew(code: &str, message: &str) -> bool {
    match code {
        "RequestExpired" | "RequestTimeTooSkewed" | "RequestInTheFuture" => true,
        "SignatureDoesNotMatch" | "InvalidSignatureException" => {
            message.contains("Signature expired") || message.contains("not yet current")
        }
        _ => false,
    }
}

/// Whether the service does not take the login.
pub(crate) fn is_of_login(code: &str) -> bool {
    matches!(
        code,
        "InvalidClientTokenId"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "UnrecognizedClientException"
            | "MissingAuthenticationToken"
            | "IncompleteSignature"
            | "SignatureDoesNotMatch"
            | "OptInRequired"
    )
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(SystemClock.now().as_millisecond().unsigned_abs())
}

/// There is one IAM for each partition, and a region that its requests are signed for.
fn iam_of(partition: &Partition) -> (String, String) {
    (format!("https://{}/", partition.iam), partition.iam_region.to_owned())
}

fn sts_of(region: &str, partition: &Partition) -> (String, String) {
    (format!("https://sts.{region}.{}/", partition.suffix), region.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &str, message: &str) -> Reply {
        let body = format!(
            "<?xml version=\"1.0\"?><ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code>\
             <Message>{message}</Message></Error></ErrorResponse>"
        );
        read(Answer::new(403, body.into_bytes()), "ListAccessKeys").expect("an answer")
    }

    #[test]
    fn a_clock_that_is_off_is_told_from_a_wrong_key() {
        let is_skew = |reply| match reply {
            Reply::Refused { is_skew, .. } => is_skew,
            Reply::Done(_) => panic!("it is done"),
        };
        assert!(is_skew(refused(
            "SignatureDoesNotMatch",
            "Signature expired: 20260101T000000Z is now earlier"
        )));
        assert!(is_skew(refused("SignatureDoesNotMatch", "Signature not yet current: 2026")));
        assert!(is_skew(refused("RequestExpired", "x")));
        assert!(!is_skew(refused("AccessDenied", "Signature expired: 2026")));
        assert!(!is_skew(refused(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match"
        )));
        assert!(!is_skew(refused("InvalidClientTokenId", "The security token is invalid")));
    }

    #[test]
    fn what_is_of_no_service_is_no_success() {
        let another = "<GetUserResponse><GetUserResult/></GetUserResponse>";
        for body in ["", "ok", "<html><body>no</body></html", "<html><body>no</body></html>", "{}", another] {
            let answer = Answer::new(200, body.as_bytes().to_vec());
            assert!(matches!(read(answer, "ListAccessKeys"), Err(Trouble::Strange)), "{body}");
        }
        assert!(matches!(read(Answer::new(503, Vec::new()), "ListAccessKeys"), Err(Trouble::Failed(503))));
    }

    /// As botocore 1.43 has them, in `partitions.json` and in IAM's rules for endpoints.
    #[test]
    fn each_partition_has_its_own_place() {
        for (region, iam, signed, sts) in [
            ("eu-central-1", "iam.amazonaws.com", "us-east-1", "amazonaws.com"),
            ("cn-northwest-1", "iam.cn-north-1.amazonaws.com.cn", "cn-north-1", "amazonaws.com.cn"),
            ("us-gov-east-1", "iam.us-gov.amazonaws.com", "us-gov-west-1", "amazonaws.com"),
            ("eusc-de-east-1", "iam.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1", "amazonaws.eu"),
            ("us-iso-west-1", "iam.us-iso-east-1.c2s.ic.gov", "us-iso-east-1", "c2s.ic.gov"),
            ("us-isob-west-1", "iam.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1", "sc2s.sgov.gov"),
            ("eu-isoe-west-1", "iam.eu-isoe-west-1.cloud.adc-e.uk", "eu-isoe-west-1", "cloud.adc-e.uk"),
            ("us-isof-east-1", "iam.us-isof-south-1.csp.hci.ic.gov", "us-isof-south-1", "csp.hci.ic.gov"),
        ] {
            let partition = Partition::of(region).expect("a partition");
            assert_eq!(iam_of(partition), (format!("https://{iam}/"), signed.to_owned()));
            let sts = format!("https://sts.{region}.{sts}/");
            assert_eq!(sts_of(region, partition), (sts, region.to_owned()));
        }
    }
}
