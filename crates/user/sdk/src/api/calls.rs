//! The calls, one function each.

use std::time::Duration;

use http::Method;
use lambda_types::instance::{CreateInstance, Instance, Page, UpdateInstance};
use lambda_types::mailbox::{PostMessage, ReadMailbox};
use lambda_types::node::OfferedImage;
use lambda_types::{BootId, Code, InstanceId};
use serde::Deserialize;

use super::{Call, Client};
use crate::Error;
use crate::config::Platform;

/// Answer of `GET /v1/platform`.
#[derive(Debug, Clone, Deserialize)]
pub struct PlatformReply {
    /// PEM.
    pub platform_ca: String,
    /// Region name.
    pub region: String,
}

/// An instance whose guest waits for its broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Waiting {
    /// Which instance.
    pub instance: InstanceId,
    /// Which boot of it.
    pub boot: BootId,
    /// Number of the message that waits.
    pub seq: u64,
}

/// `GET /v1/shapes`, as the API describes them.
pub type Shapes = serde_json::Value;

#[derive(Deserialize)]
struct Items {
    items: Vec<Waiting>,
}

/// Most pages that a listing follows: a bound on a server that never stops handing out cursors.
const MAX_PAGES: usize = 10_000;

/// A cursor is opaque: whatever is in it must not become another parameter.
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

impl Client {
    /// The platform CA and region that the cloud presents.
    ///
    /// # Errors
    /// When the API does not answer, or presents no certificate.
    pub async fn platform(&self) -> Result<Platform, Error> {
        let reply: PlatformReply = self.call(Call::get("/v1/platform")).await?;
        Platform::new(reply.region, reply.platform_ca)
    }

    /// Every image that nodes offer.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn images(&self) -> Result<Vec<OfferedImage>, Error> {
        self.all_pages("/v1/images").await
    }

    /// The shapes.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn shapes(&self) -> Result<Shapes, Error> {
        self.call(Call::get("/v1/shapes")).await
    }

    /// Creates an instance. Repeating the same body is safe: the id in it is the identity.
    ///
    /// # Errors
    /// When the API refuses or does not answer.
    pub async fn create_instance(&self, body: &CreateInstance) -> Result<Instance, Error> {
        self.call(Call::post("/v1/instances")?.json(body)?).await
    }

    /// Every instance of the project.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn instances(&self) -> Result<Vec<Instance>, Error> {
        self.all_pages("/v1/instances").await
    }

    async fn all_pages<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let query = cursor.map_or_else(String::new, |cursor| format!("&cursor={}", percent(&cursor)));
            let page: Page<T> = self.call(Call::get(format!("{path}?limit=100{query}"))).await?;
            items.extend(page.items);
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(items),
            }
        }
        Err(Error::Protocol("the listing does not end".into()))
    }

    /// One instance.
    ///
    /// # Errors
    /// When there is none, or the API does not answer.
    pub async fn instance(&self, id: InstanceId) -> Result<Instance, Error> {
        self.call(Call::get(format!("/v1/instances/{id}"))).await
    }

    /// One instance, `None` when there is none.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn instance_if_there(&self, id: InstanceId) -> Result<Option<Instance>, Error> {
        match self.instance(id).await {
            Ok(instance) => Ok(Some(instance)),
            Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces sealed values, if the record still has this ETag.
    ///
    /// # Errors
    /// With [`Code::VersionMismatch`] when the record has changed, also by an earlier attempt of this very call whose
    /// answer was lost: read it again to know.
    pub async fn update_instance(&self, id: InstanceId, etag: &str, body: &UpdateInstance) -> Result<Instance, Error> {
        let call = Call::new(Method::PATCH, format!("/v1/instances/{id}")).if_match(etag)?.json(body)?;
        self.call(call).await
    }

    /// Asks for removal, volume included.
    ///
    /// # Errors
    /// When there is none, or the API does not answer.
    pub async fn delete_instance(&self, id: InstanceId) -> Result<(), Error> {
        self.call_unit(Call::new(Method::DELETE, format!("/v1/instances/{id}"))).await
    }

    /// Asks for a start.
    ///
    /// # Errors
    /// When the instance's state refuses it, or the API does not answer.
    pub async fn start_instance(&self, id: InstanceId) -> Result<(), Error> {
        self.call_unit(Call::post(format!("/v1/instances/{id}/start"))?).await
    }

    /// Asks for a stop.
    ///
    /// # Errors
    /// When the instance's state refuses it, or the API does not answer.
    pub async fn stop_instance(&self, id: InstanceId) -> Result<(), Error> {
        self.call_unit(Call::post(format!("/v1/instances/{id}/stop"))?).await
    }

    /// Asks for a restart.
    ///
    /// # Errors
    /// When the instance's state refuses it, or the API does not answer.
    pub async fn restart_instance(&self, id: InstanceId) -> Result<(), Error> {
        self.call_unit(Call::post(format!("/v1/instances/{id}/restart"))?).await
    }

    /// The guest's register of the current boot, when it is newer than `after`; waits for that up to `wait`.
    ///
    /// # Errors
    /// When there is no such instance, or the API does not answer.
    pub async fn read_mailbox(
        &self,
        id: InstanceId,
        boot: Option<BootId>,
        after: u64,
        wait: Duration,
    ) -> Result<ReadMailbox, Error> {
        let boot = boot.map_or_else(String::new, |boot| format!("&boot={boot}"));
        let path = format!("/v1/instances/{id}/mailbox?after={after}&wait={}{boot}", wait.as_secs());
        self.call(Call::get(path).waits(wait)).await
    }

    /// Gives the guest its broker's next message.
    ///
    /// # Errors
    /// With [`Code::Conflict`] when the guest has booted again or said more since.
    pub async fn post_mailbox(&self, id: InstanceId, message: &PostMessage) -> Result<(), Error> {
        self.call_unit(Call::post(format!("/v1/instances/{id}/mailbox"))?.json(message)?).await
    }

    /// Instances whose guest waits for its broker; waits up to `wait` for one.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn waiting_mailboxes(&self, wait: Duration) -> Result<Vec<Waiting>, Error> {
        let call = Call::get(format!("/v1/mailboxes?wait={}", wait.as_secs())).waits(wait);
        self.call::<Items>(call).await.map(|reply| reply.items)
    }
}
