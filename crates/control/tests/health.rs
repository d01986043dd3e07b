//! What a ready guest finds wrong with itself, as its customer reads it.
#![allow(missing_docs)]

mod common;

use common::{Cloud, Customer, find};
use lambda_types::InstanceId;
use lambda_types::guest::Degradation;
use lambda_types::instance::{Condition, ConditionKind, Phase};

const ID: InstanceId = InstanceId::from_bits(1);

async fn conditions(customer: &Customer) -> Vec<Condition> {
    customer.show(ID).await.conditions
}

#[tokio::test]
async fn each_thing_that_is_wrong_is_a_condition_from_its_first_report_to_its_last() {
    let cloud = Cloud::start().await;
    let (customer, mut node) = (cloud.customer(), cloud.node(1));
    node.sync(0).await;
    customer.create(ID).await;
    let desired = find(&node.sync(30).await, ID);
    node.report(&desired, Phase::Ready).await;
    assert_eq!(conditions(&customer).await, []);

    node.observed[0].degraded = vec![Degradation::VolumeIntegrity];
    node.sync(0).await;
    let first = conditions(&customer).await;
    assert_eq!((first.len(), first[0].kind), (1, ConditionKind::Degraded));
    assert!(first[0].since_ms > 0 && first[0].message.ends_with("[volume-integrity]"), "{first:?}");

    node.observed[0].degraded = vec![Degradation::SshUnreachable, Degradation::VolumeIntegrity];
    node.sync(0).await;
    let both = conditions(&customer).await;
    assert!(both.len() == 2 && both[0].message.ends_with("[ssh-unreachable]"), "{both:?}");
    assert_eq!(both[1], first[0], "what was wrong before keeps its time");

    node.observed[0].degraded = Vec::new();
    node.sync(0).await;
    assert_eq!(conditions(&customer).await, []);
}
