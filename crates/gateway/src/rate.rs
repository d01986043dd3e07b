//! Rate limits: a token bucket (GCRA) for each API key and each client address.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use lambda_transport::ApiError;
use lambda_types::{ApiKeyId, Code};

/// Requests a second that a key may sustain.
const KEY_RATE: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// Requests that a key may send at once.
const KEY_BURST: NonZeroU32 = NonZeroU32::new(400).unwrap();

/// Requests a second that an address may sustain, over all its keys and attempts without one.
const ADDRESS_RATE: NonZeroU32 = NonZeroU32::new(400).unwrap();

/// Requests that an address may send at once.
const ADDRESS_BURST: NonZeroU32 = NonZeroU32::new(1600).unwrap();

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

type Limiter<K> = RateLimiter<K, DashMapStateStore<K>, DefaultClock, StateInformationMiddleware>;

/// The limiters.
pub(crate) struct Rates {
    keys: Limiter<ApiKeyId>,
    addresses: Limiter<IpAddr>,
    clock: DefaultClock,
}

impl Default for Rates {
    fn default() -> Self {
        let limiter = |rate, burst| Quota::per_second(rate).allow_burst(burst);
        Self {
            keys: RateLimiter::dashmap(limiter(KEY_RATE, KEY_BURST)).with_middleware(),
            addresses: RateLimiter::dashmap(limiter(ADDRESS_RATE, ADDRESS_BURST)).with_middleware(),
            clock: DefaultClock::default(),
        }
    }
}

impl Rates {
    /// Counts a request against its address.
    ///
    /// # Errors
    /// `rate-limited` when there were too many.
    pub(crate) fn address(&self, address: IpAddr) -> Result<(), ApiError> {
        self.addresses
            .check_key(&address)
            .map(|_| ())
            .map_err(|until| refused("address", ADDRESS_RATE, ADDRESS_BURST, until.wait_time_from(self.clock.now())))
    }

    /// Counts a request against its key; gives the headers that tell the client what is left.
    ///
    /// # Errors
    /// `rate-limited` when there were too many.
    pub(crate) fn key(&self, key: ApiKeyId) -> Result<HeaderMap, ApiError> {
        match self.keys.check_key(&key) {
            Ok(state) => {
                let left = state.remaining_burst_capacity();
                Ok(headers("key", KEY_RATE, KEY_BURST, left, refill(KEY_RATE, KEY_BURST)))
            }
            Err(until) => Err(refused("key", KEY_RATE, KEY_BURST, until.wait_time_from(self.clock.now()))),
        }
    }

    /// Drops state that no longer limits anyone.
    pub(crate) fn forget_idle(&self) {
        self.keys.retain_recent();
        self.addresses.retain_recent();
    }
}

/// Whole seconds in which a bucket fills.
fn refill(rate: NonZeroU32, burst: NonZeroU32) -> u64 {
    u64::from(burst.get().div_ceil(rate.get()))
}

/// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers).
fn headers(name: &str, rate: NonZeroU32, burst: NonZeroU32, left: u32, reset_seconds: u64) -> HeaderMap {
    let window = refill(rate, burst);
    let values = [
        (POLICY, format!("\"{name}\";q={burst};w={window}")),
        (STATE, format!("\"{name}\";r={left};t={reset_seconds}")),
    ];
    values.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::from_str(&value).ok()?))).collect()
}

fn refused(name: &str, rate: NonZeroU32, burst: NonZeroU32, wait: Duration) -> ApiError {
    let seconds = wait.as_secs().saturating_add(1);
    let detail = format!("more than {rate} requests a second from this {name}; wait {seconds} s and try again");
    let mut error = ApiError::new(Code::RateLimited, detail).with_header(header::RETRY_AFTER, seconds.into());
    for (header, value) in headers(name, rate, burst, 0, seconds) {
        if let Some(header) = header {
            error = error.with_header(header, value);
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_next_request_is_told_when_to_come_back() {
        let rates = Rates::default();
        let key = ApiKeyId::from_bits(1);
        let headers = rates.key(key).unwrap();
        assert_eq!(headers[POLICY], "\"key\";q=400;w=4");
        assert_eq!(headers[STATE], "\"key\";r=399;t=4");
        let error = (0..10_000).find_map(|_| rates.key(key).err()).expect("a limit");
        assert_eq!(error.code(), Code::RateLimited);
        assert!(rates.key(ApiKeyId::from_bits(2)).is_ok(), "keys do not share a bucket");
    }
}
