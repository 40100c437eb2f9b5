//! Manifests, fetched with a bound. `oci-client` reads all of one before anybody can look at its
//! length; layers and configs it streams.

use oci_client::{
    Reference,
    errors::{OciDistributionError, OciEnvelope},
    secrets::RegistryAuth,
};
use reqwest::{Response, StatusCode, header};

use super::{CONNECT_TIMEOUT, READ_TIMEOUT, USER_AGENT};
use crate::{
    error::ContentError,
    manifest::{MANIFEST_TYPES, check_size},
};

const WHAT: &str = "the manifest";

/// Why a manifest could not be had.
#[derive(Debug)]
pub(super) enum Failure {
    Registry(OciDistributionError),
    Content(ContentError),
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self::Registry(error.into())
    }
}

pub(super) struct Manifests {
    client: reqwest::Client,
    scheme: &'static str,
}

impl Manifests {
    /// `authorities` are trusted beside the system's.
    pub(super) fn new(
        plain: bool,
        authorities: Vec<reqwest::Certificate>,
    ) -> Result<Self, reqwest::Error> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(USER_AGENT);
        for authority in authorities {
            builder = builder.add_root_certificate(authority);
        }
        let scheme = if plain { "http" } else { "https" };
        Ok(Self { client: builder.build()?, scheme })
    }

    /// `token` is what [`oci_client::Client::auth`] got for `auth`.
    pub(super) async fn get(
        &self,
        reference: &Reference,
        token: Option<&str>,
        auth: &RegistryAuth,
    ) -> Result<Vec<u8>, Failure> {
        let url = format!(
            "{}://{}/v2/{}/manifests/{}",
            self.scheme,
            reference.resolve_registry(),
            reference.repository(),
            reference.digest().or(reference.tag()).unwrap_or("latest"),
        );
        let mut request = self.client.get(&url).header(header::ACCEPT, MANIFEST_TYPES.join(", "));
        if let Some(namespace) = reference.namespace() {
            request = request.query(&[("ns", namespace)]);
        }
        request = match (token, auth) {
            (Some(token), _) => request.bearer_auth(token),
            (None, RegistryAuth::Basic(user, password)) => request.basic_auth(user, Some(password)),
            (None, _) => request,
        };
        let response = request.send().await?;
        let status = response.status();
        let body = body(response).await?;
        if status == StatusCode::OK { Ok(body) } else { Err(refusal(status, &body, url)) }
    }
}

async fn body(mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        check_size((body.len() + piece.len()) as u64, WHAT).map_err(Failure::Content)?;
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// What an answer other than 200 says (OCI distribution specification, "Error codes").
fn refusal(status: StatusCode, body: &[u8], url: String) -> Failure {
    let code = status.as_u16();
    Failure::Registry(match serde_json::from_slice::<OciEnvelope>(body) {
        _ if status == StatusCode::UNAUTHORIZED => OciDistributionError::UnauthorizedError { url },
        Ok(envelope) if status.is_client_error() => {
            OciDistributionError::RegistryError { envelope, url }
        }
        _ => {
            let message = String::from_utf8_lossy(body).into_owned();
            OciDistributionError::ServerError { code, url, message }
        }
    })
}
