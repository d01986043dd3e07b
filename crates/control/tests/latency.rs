//! How long an accepted creation takes to reach its node: part of the path whose p99 must stay under 50 ms.
#![allow(missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{Cloud, find, offer};
use lambda_types::InstanceId;

const CREATIONS: u128 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: run it alone, in release mode"]
async fn creation_reaches_the_held_poll() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.offer = offer(1000, 1 << 20, 10_000);
    node.sync(0).await;
    let mut times: Vec<Duration> = Vec::new();
    for bits in 1..=CREATIONS {
        let id = InstanceId::from_bits(bits);
        let held = tokio::spawn(async move {
            let answer = node.sync(30).await;
            let at = Instant::now();
            find(&answer, id);
            (node, at)
        });
        let begun = Instant::now();
        assert_eq!(customer.create(id).await.status, 202);
        let (back, at) = held.await.unwrap();
        node = back;
        times.push(at - begun);
    }
    times.sort_unstable();
    println!("request sent -> node told: p50 {:?}, p99 {:?}, most {:?}", times[50], times[98], times[99]);
    assert!(times[98] < Duration::from_millis(50));
}
