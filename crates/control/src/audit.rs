//! What the audit log can say: what customers and operators change, and what becomes of it. Not what a guest does by
//! itself, which could be repeated at will. Entries are kept for [`KEPT_MS`]. Closed: ids, sizes and states, and no field that free text could enter.

use lambda_types::api_key::Scope;
use lambda_types::instance::Failure;
use lambda_types::shape::Shape;
use lambda_types::{ApiKeyId, BootId, ImageId, InstanceId, NodeId, ProjectId, RequestId};
use serde::Serialize;

/// How long entries are kept; the reconciler removes older ones.
pub(crate) const KEPT_MS: u64 = 365 * 24 * 60 * 60 * 1000;

/// On whose account a change was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Actor {
    /// A customer's API key.
    Key {
        /// The key.
        key: ApiKeyId,
        /// Its project.
        project: ProjectId,
    },
    /// A node agent.
    Node {
        /// The node.
        node: NodeId,
    },
    /// The control plane's own reconciler.
    Reconciler,
    /// The operator, on the machine itself.
    Operator,
}

/// Who, and through which request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cause {
    /// On whose account.
    pub(crate) actor: Actor,
    /// The request, when there was one.
    pub(crate) request: Option<RequestId>,
}

impl Cause {
    pub(crate) fn of(actor: Actor) -> Self {
        Self { actor, request: None }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Event {
    ProjectCreated { project: ProjectId },
    ApiKeyCreated { key: ApiKeyId, project: ProjectId, scopes: Vec<Scope> },
    ApiKeyRevoked { key: ApiKeyId, project: ProjectId },
    NodeRegistered { node: NodeId },
    NodeForgotten { node: NodeId },
    NodeOfferChanged { node: NodeId },
    NodeGenerationAdopted { node: NodeId, generation: u64 },
    InstanceCreated { instance: InstanceId, project: ProjectId, shape: Shape, image: ImageId, volume_gib: u32 },
    InstancePlaced { instance: InstanceId, node: NodeId },
    InstanceUpdated { instance: InstanceId, secrets: bool, metadata: bool },
    InstanceVolumeGrown { instance: InstanceId, volume_gib: u32 },
    InstanceStarted { instance: InstanceId, epoch: u64 },
    InstanceStopped { instance: InstanceId },
    InstanceRestarted { instance: InstanceId, epoch: u64 },
    InstanceDeletionRequested { instance: InstanceId },
    InstanceAdopted { instance: InstanceId, generation: u64, epoch: u64 },
    InstanceComputeReleased { instance: InstanceId },
    InstanceGaveUp { instance: InstanceId, failure: Failure },
    InstanceRemoved { instance: InstanceId, project: ProjectId },
    MailboxFromBroker { instance: InstanceId, boot: BootId, seq: u64, answers: u64 },
}
