//! Parts that several unit tests share.

use lambda_types::instance::Power;
use lambda_types::shape::{LaunchProfile, Shape};
use lambda_types::{ImageId, InstanceId, ProjectId, Sealed, VolumeId};

use crate::store::instance::{InstanceRow, MailboxState, Observed};

/// An unplaced, running nano instance.
pub(crate) fn row(id: u128) -> InstanceRow {
    InstanceRow {
        id: InstanceId::from_bits(id),
        project: ProjectId::from_bits(1),
        version: 1,
        generation: 1,
        power_generation: 1,
        epoch: 1,
        power: Power::Running,
        shape: Shape::Nano,
        image: ImageId::from_bits(7),
        profile: LaunchProfile::Tpm,
        launch: None,
        volume: VolumeId::from_bits(id),
        volume_gib: 1,
        node: None,
        compute_held: false,
        address: None,
        mac: "02:00:00:00:00:01".into(),
        created_ms: 0,
        changed_ms: 0,
        failure: None,
        secrets: Sealed::from_bytes(vec![1]),
        metadata: Sealed::from_bytes(vec![2]),
        observed: Observed::default(),
        mailbox: MailboxState::default(),
    }
}
