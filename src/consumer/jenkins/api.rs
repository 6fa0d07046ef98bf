//! Requests to a store of Jenkins, and what its answers mean.
//!
//! After `docs/user.adoc` and `CredentialsStoreAction` of its credentials plugin. Nothing of an answer's text is passed
//! on but what is read from it.

use serde_json::Value;
use zeroize::Zeroizing;

use super::document::{self, NoCredential, Shown};
use crate::failure::{Failure, FailureClass};
use crate::http::header::{CONTENT_TYPE, COOKIE, SET_COOKIE};
use crate::http::{Answer, Deadlines, Http, Method, Stage, StatusCode};
use crate::policy::spec::{JenkinsSpec, TlsMode, TlsSpec};
use crate::secret::Credential;

/// A credential is shorter, and so is a list of their ids.
const MOST_BYTES: usize = 4 * 1024 * 1024;

const REACH: &str = "check that Jenkins runs, and `url`";
const DOWN: &str = "see whether Jenkins is starting, and what is between";

/// A login at the store that the credential is in.
pub(super) struct Api<'a> {
    http: Http,
    login: Credential,
    spec: &'a JenkinsSpec,
    /// Completes "cannot ...".
    doing: String,
}

/// What came of an attempt to make a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    Now,
    /// Somebody else made one of that id.
    Already,
}

/// What a login needs for a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    Create,
    Update,
}

impl Right {
    /// As Jenkins calls it, below `Credentials/`.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "Create",
            Self::Update => "Update",
        }
    }
}

/// What a login may do, as far as Jenkins says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowed {
    Yes,
    No,
    Untold,
}

/// What a 403 says.
const NO_CRUMB: &str = "No valid crumb";

impl<'a> Api<'a> {
    pub(super) async fn new(
        spec: &'a JenkinsSpec,
        login: Credential,
        deadlines: Deadlines,
        doing: String,
    ) -> Result<Self, Failure> {
        let invalid = |reason: String, remedy| {
            Failure::new(FailureClass::Invalid, doing.as_str(), reason).with_remedy(remedy)
        };
        let base = spec.address().ok_or_else(|| {
            invalid("its address is not one of a server".into(), "write `https://host/path`")
        })?;
        let mode = if base.scheme() == "http" { TlsMode::Disable } else { TlsMode::VerifyFull };
        let tls = TlsSpec { mode, ca_file: spec.ca_file.clone(), allow_plaintext: false };
        let http = Http::new(base, &tls, deadlines, MOST_BYTES).await.map_err(|reason| {
            invalid(reason, "name a PEM file that rekeyd may read and that holds the server's authority")
        })?;
        Ok(Self { http, login, spec, doing })
    }

    pub(super) fn doing(&self) -> &str {
        &self.doing
    }

    /// The credential without its secret; `None` where there is none, in a store that is there.
    pub(super) async fn shown(&self) -> Result<Option<Shown>, Failure> {
        let answer = self.get(&self.below(&["credential", &self.spec.id, "config.xml"]), "").await?;
        match answer.status {
            StatusCode::OK => match document::read(&answer.body) {
                Ok(shown) if shown.may_lack_letters() => {
                    let described = self.listed().await?.into_iter().find(|(id, _)| *id == self.spec.id);
                    let Some((_, description)) = described else {
                        let reason = "it was deleted just now";
                        return Err(Failure::new(FailureClass::Unavailable, self.doing.as_str(), reason));
                    };
                    Ok(Some(Shown { description, ..shown }))
                }
                Ok(shown) => Ok(Some(shown)),
                Err(NoCredential::Page) => Err(self.page()),
                Err(NoCredential::Other) => {
                    Err(self.invalid("it answers with something that is no credential").with_remedy(
                        "check that `url` is that of a Jenkins, and that nothing between changes answers",
                    ))
                }
            },
            StatusCode::NOT_FOUND => self.check_store().await.map(|()| None),
            _ => Err(self.refusal(&answer, "View")),
        }
    }

    /// Whether there is the store: Jenkins answers alike for a credential that is missing in it.
    async fn check_store(&self) -> Result<(), Failure> {
        if self.listed().await?.into_iter().any(|(id, _)| id == self.spec.id) {
            // Made between the two requests.
            let reason = "it came to be just now";
            return Err(Failure::new(FailureClass::Unavailable, self.doing.as_str(), reason));
        }
        Ok(())
    }

    /// Id and description of each credential in the store's domain. JSON is always written in UTF-8.
    async fn listed(&self) -> Result<Vec<(String, String)>, Failure> {
        let answer = self.get(&self.below(&["api", "json"]), "tree=credentials[id,description]").await?;
        match answer.status {
            StatusCode::OK => {
                let listed: Value = serde_json::from_slice(&answer.body).map_err(|_| self.page())?;
                let text = |each: &Value, name: &str| each[name].as_str().unwrap_or_default().to_owned();
                let each = listed["credentials"].as_array().into_iter().flatten();
                Ok(each.map(|each| (text(each, "id"), text(each, "description"))).collect())
            }
            StatusCode::NOT_FOUND => {
                let reason = match &self.spec.folder {
                    Some(folder) => format!(
                        "folder {folder} has no store with the domain {}, or the admin may not see it",
                        self.spec.domain
                    ),
                    None => format!("it has no domain {}, or the admin may not see it", self.spec.domain),
                };
                Err(self.invalid(reason).with_remedy(
                    "check `url`, `folder` and `domain`, and give the admin Overall/Read, Job/Read on the folder and \
                     Credentials/View",
                ))
            }
            _ => Err(self.refusal(&answer, "View")),
        }
    }

    /// Makes the credential.
    pub(super) async fn create(&self, document: &Zeroizing<Vec<u8>>) -> Result<Made, Failure> {
        let answer = self.post(&self.below(&["createCredentials"]), Some(document)).await?;
        match answer.status {
            status if status.is_success() => Ok(Made::Now),
            StatusCode::CONFLICT => Ok(Made::Already),
            _ => Err(self.written_badly(&answer, Right::Create)),
        }
    }

    /// Replaces the credential. Success says that Jenkins took it, and not that it did anything with it.
    pub(super) async fn update(&self, document: &Zeroizing<Vec<u8>>) -> Result<(), Failure> {
        let path = self.below(&["credential", &self.spec.id, "config.xml"]);
        let answer = self.post(&path, Some(document)).await?;
        match answer.status {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => {
                let reason = "it was deleted just now";
                Err(Failure::new(FailureClass::Unavailable, self.doing.as_str(), reason))
            }
            _ => Err(self.written_badly(&answer, Right::Update)),
        }
    }

    /// Whether the login may make a credential, or change this one: by a request without a document. Jenkins asks for the
    /// right first, and then has nothing that it could carry out.
    pub(super) async fn allows(&self, right: Right) -> Result<Allowed, Failure> {
        let path = match right {
            Right::Create => self.below(&["createCredentials"]),
            Right::Update => self.below(&["credential", &self.spec.id, "updateSubmit"]),
        };
        let answer = self.post(&path, None).await?;
        Ok(match answer.status {
            StatusCode::FORBIDDEN if !says(&answer, NO_CRUMB) => Allowed::No,
            StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR => Allowed::Yes,
            _ => Allowed::Untold,
        })
    }

    /// The way to the store's domain, and on.
    fn below<'p>(&'p self, rest: &[&'p str]) -> Vec<&'p str> {
        let store = if self.spec.folder.is_some() { "folder" } else { "system" };
        let folders = self.spec.folders().flat_map(|folder| ["job", folder]);
        let domain = ["credentials", "store", store, "domain", self.spec.domain.as_str()];
        folders.chain(domain).chain(rest.iter().copied()).collect()
    }

    async fn get(&self, path: &[&str], query: &str) -> Result<Answer, Failure> {
        let request = self.http.request(Method::GET, path, query, &self.login);
        self.http.send(request).await.map_err(|lost| lost.into_failure(Stage::Reading, &self.doing, REACH))
    }

    /// A login by API token needs no crumb. One by password does, and is refused for sure without it.
    async fn post(&self, path: &[&str], document: Option<&Zeroizing<Vec<u8>>>) -> Result<Answer, Failure> {
        let answer = self.send_document(path, document, None).await?;
        if answer.status != StatusCode::FORBIDDEN || !says(&answer, NO_CRUMB) {
            return Ok(answer);
        }
        let crumb = self.crumb().await?;
        self.send_document(path, document, Some(&crumb)).await
    }

    async fn send_document(
        &self,
        path: &[&str],
        document: Option<&Zeroizing<Vec<u8>>>,
        crumb: Option<&Crumb>,
    ) -> Result<Answer, Failure> {
        let mut request = self.http.request(Method::POST, path, "", &self.login);
        if let Some(document) = document {
            request = request.header(CONTENT_TYPE, "application/xml; charset=UTF-8").body(document.to_vec());
        }
        if let Some(crumb) = crumb {
            request = request.header(crumb.field.as_str(), crumb.value.as_str());
            if !crumb.session.is_empty() {
                request = request.header(COOKIE, crumb.session.as_str());
            }
        }
        self.http.send(request).await.map_err(|lost| lost.into_failure(Stage::Writing, &self.doing, REACH))
    }

    async fn crumb(&self) -> Result<Crumb, Failure> {
        let none = || {
            Failure::new(FailureClass::Denied, self.doing.as_str(), "it asks for a crumb and hands out none")
                .with_remedy("let the admin log in with an API token, which needs none")
        };
        let answer = self.get(&["crumbIssuer", "api", "json"], "").await?;
        if answer.status != StatusCode::OK {
            return Err(none());
        }
        let said: Value = serde_json::from_slice(&answer.body).map_err(|_| none())?;
        let text = |name: &str| said[name].as_str().map(ToOwned::to_owned);
        // A crumb is good for the session that it was handed out in.
        let cookies = answer.headers.get_all(SET_COOKIE).iter().filter_map(|cookie| cookie.to_str().ok());
        let pairs: Vec<&str> = cookies.filter_map(|cookie| cookie.split(';').next()).map(str::trim).collect();
        let crumb = text("crumbRequestField").zip(text("crumb"));
        let (field, value) = crumb.ok_or_else(none)?;
        Ok(Crumb { field, value, session: pairs.join("; ") })
    }

    /// What an answer to a write means that is no success.
    fn written_badly(&self, answer: &Answer, right: Right) -> Failure {
        if !answer.status.is_server_error() {
            return self.refusal(answer, right.as_str());
        }
        let reason = format!("it answers {}; the change may have taken effect", answer.status.as_u16());
        Failure::new(FailureClass::Ambiguous, self.doing.as_str(), reason).with_remedy(
            "see in Jenkins' log what it says: the plugin for this kind of credential may be missing",
        )
    }

    /// What an answer means that is none of those that are asked for, and that certainly changed nothing.
    fn refusal(&self, answer: &Answer, right: &str) -> Failure {
        let failed = |class, reason: String| Failure::new(class, self.doing.as_str(), reason);
        match answer.status {
            StatusCode::UNAUTHORIZED => {
                failed(FailureClass::Denied, "it refuses the admin credential".into())
                    .with_remedy("put the admin's user name and API token where the settings say")
            }
            StatusCode::FORBIDDEN if says(answer, NO_CRUMB) => {
                failed(FailureClass::Denied, "it does not take its own crumb".into())
                    .with_remedy("let the admin log in with an API token, which needs none")
            }
            StatusCode::FORBIDDEN => failed(
                FailureClass::Denied,
                format!("the admin may not do that: Credentials/{right} is missing"),
            )
            .with_remedy(format!(
                "give the admin Credentials/{right} there; a store of another provider is read-only: \
                         rotate the secret at its source"
            )),
            status if status.is_redirection() => failed(
                FailureClass::Invalid,
                "it redirects to another address".into(),
            )
            .with_remedy(
                "write the address that Jenkins gives as its own, and let API tokens past a single sign-on",
            ),
            StatusCode::TOO_MANY_REQUESTS => {
                failed(FailureClass::Unavailable, "it answers 429".into()).with_remedy(DOWN)
            }
            status if status.is_server_error() => {
                failed(FailureClass::Unavailable, format!("it answers {}", status.as_u16())).with_remedy(DOWN)
            }
            status => failed(FailureClass::Invalid, format!("it answers {}", status.as_u16()))
                .with_remedy("check that `url` is that of a Jenkins with the credentials plugin"),
        }
    }

    fn page(&self) -> Failure {
        self.invalid("it answers with a page for people, as a login form is one").with_remedy(
            "check `url`, and let API tokens past whatever asks people to log in before Jenkins does",
        )
    }

    fn invalid(&self, reason: impl std::fmt::Display) -> Failure {
        Failure::new(FailureClass::Invalid, self.doing.as_str(), reason)
    }
}

/// What a write by password has to bring.
struct Crumb {
    field: String,
    value: String,
    session: String,
}

fn says(answer: &Answer, words: &str) -> bool {
    memchr::memmem::find(&answer.body, words.as_bytes()).is_some()
}
