//! Metrics in the Prometheus text format: by route template and status only. No tenant, no id, no address.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds of the latency buckets, seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 35.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

/// The gateway's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    latency: Family<RouteLabels, Histogram, fn() -> Histogram>,
    tunnels: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("lambda_gateway");
        let requests = Family::default();
        let latency = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        let tunnels = Gauge::default();
        registry.register("requests", "Requests answered", requests.clone());
        registry.register_with_unit("latency", "Time to answer a request", Unit::Seconds, latency.clone());
        registry.register("tunnels", "Open tunnels", tunnels.clone());
        Self { registry, requests, latency, tunnels }
    }
}

impl Metrics {
    /// Counts an answered request. `route` is a template, never a path.
    pub(crate) fn answered(&self, route: &'static str, method: &http::Method, status: u16, took: Duration) {
        let labels = RequestLabels { route, method: known_method(method), status };
        self.requests.get_or_create(&labels).inc();
        self.latency.get_or_create(&RouteLabels { route }).observe(took.as_secs_f64());
    }

    /// The gauge of open tunnels.
    pub(crate) fn tunnels(&self) -> &Gauge {
        &self.tunnels
    }

    /// The text that `/metrics` serves.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }
}

/// Methods are a closed set here, so that a client cannot make labels.
fn known_method(method: &http::Method) -> &'static str {
    [&http::Method::GET, &http::Method::POST, &http::Method::PATCH, &http::Method::DELETE]
        .into_iter()
        .find(|known| *known == method)
        .map_or("other", |known| match known.as_str() {
            "GET" => "GET",
            "POST" => "POST",
            "PATCH" => "PATCH",
            _ => "DELETE",
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_template_and_status() {
        let metrics = Metrics::default();
        metrics.answered("/v1/instances/{}", &http::Method::GET, 200, Duration::from_millis(3));
        metrics.answered("/v1/instances/{}", &http::Method::from_bytes(b"BREW").unwrap(), 405, Duration::ZERO);
        let text = metrics.text();
        assert!(
            text.contains(r#"lambda_gateway_requests_total{route="/v1/instances/{}",method="GET",status="200"} 1"#),
            "{text}"
        );
        assert!(text.contains(r#"method="other",status="405""#), "{text}");
        assert!(text.contains("# TYPE lambda_gateway_latency_seconds histogram"), "{text}");
    }
}
