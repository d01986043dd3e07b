//! First contact: pins the platform CA and makes the customer's keys.

use crate::config::{ApiKey, Config, Folder};
use crate::{Client, Error, Keyring};

/// What to connect to. What is left out is kept from an earlier connect.
pub struct ConnectRequest {
    /// `https://host:port`.
    pub endpoint: String,
    /// Certificates that the gateway's chain must end in, PEM.
    pub ca: Option<String>,
    /// The API key.
    pub api_key: Option<ApiKey>,
    /// Replaces the pinned platform CA by the presented one: after its fingerprint was compared out of band.
    pub accept_new_platform_ca: bool,
}

/// What a connect led to.
pub struct Connected {
    /// As stored.
    pub config: Config,
    /// Whether the platform CA was pinned by this connect.
    pub pinned: bool,
}

/// Connects: the platform CA is pinned at the first time and compared at each later one.
///
/// # Errors
/// When the API does not answer, or presents another platform CA than the pinned one.
pub async fn connect(folder: &Folder, request: ConnectRequest) -> Result<Connected, Error> {
    let earlier = match Config::load(folder) {
        Ok(config) => Some(config),
        Err(Error::NotConnected(_)) => None,
        Err(error) => return Err(error),
    };
    let ca = request
        .ca
        .or_else(|| earlier.as_ref().map(|config| config.ca.clone()))
        .ok_or_else(|| Error::Usage("the first connect needs --ca FILE: the gateway's certificate authority".into()))?;
    let key = match request.api_key {
        Some(key) => key,
        None if earlier.is_some() => ApiKey::load(folder)?,
        None => return Err(Error::Usage("the first connect needs --api-key-file FILE".into())),
    };
    let client = Client::with(&request.endpoint, &ca, &key)?;
    let presented = client.platform().await?;
    let mut pinned = true;
    if let Some(earlier) = &earlier
        && !request.accept_new_platform_ca
    {
        earlier.check_platform(&presented)?;
        pinned = false;
    }
    Keyring::load_or_create(folder)?;
    let config = Config::new(client.endpoint().to_owned(), ca, presented);
    key.save(folder)?;
    config.save(folder)?;
    Ok(Connected { config, pinned })
}
