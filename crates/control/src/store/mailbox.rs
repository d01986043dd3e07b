//! Mailbox rows: the two registers of an instance's current boot.

use lambda_types::mailbox::Message;
use lambda_types::{Binary, BootId, InstanceId, NodeId, ProjectId};
use serde::Serialize;
use sqlx::AnyConnection;

use super::{Columns, StoreError, Write, signed, word};
use crate::hub::Notice;

/// Most entries in a listing of unanswered mailboxes.
const LISTED: i64 = 1000;

/// An instance whose guest said something that no broker has answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Unanswered {
    pub(crate) instance: InstanceId,
    pub(crate) boot: BootId,
    pub(crate) seq: u64,
}

/// The guest's register.
pub(crate) async fn guest_message(
    connection: &mut AnyConnection,
    instance: InstanceId,
) -> Result<Option<Message>, StoreError> {
    let row = sqlx::query("SELECT boot, guest_seq, guest_body FROM mailboxes WHERE instance = $1")
        .bind(instance.to_string())
        .fetch_optional(connection)
        .await?;
    row.map(|row| {
        let columns = Columns(&row);
        let body = Binary(columns.bytes("guest_body")?);
        Ok(Message { boot: columns.id("boot")?, seq: columns.number("guest_seq")?, body })
    })
    .transpose()
}

/// The broker's registers of every instance on a node.
pub(crate) async fn broker_messages(
    connection: &mut AnyConnection,
    node: NodeId,
) -> Result<Vec<(InstanceId, Message)>, StoreError> {
    let rows = sqlx::query(
        "SELECT m.instance, m.boot, m.broker_seq, m.broker_body FROM mailboxes m JOIN instances i ON i.id = m.instance \
         WHERE i.node = $1 AND m.broker_body IS NOT NULL",
    )
    .bind(node.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let columns = Columns(row);
            let body = Binary(columns.bytes("broker_body")?);
            let message = Message { boot: columns.id("boot")?, seq: columns.number("broker_seq")?, body };
            Ok((columns.id("instance")?, message))
        })
        .collect()
}

/// A project's unanswered mailboxes, of guests that wait for an answer. One that is ready answers who asks it, and
/// waits for nobody.
pub(crate) async fn unanswered(
    connection: &mut AnyConnection,
    project: ProjectId,
) -> Result<Vec<Unanswered>, StoreError> {
    let rows = sqlx::query(
        "SELECT m.instance, m.boot, m.guest_seq FROM mailboxes m JOIN instances i ON i.id = m.instance \
         WHERE m.project = $1 AND m.guest_seq > m.broker_answers AND i.power = 'running' \
         AND i.observed_epoch = i.epoch AND i.observed_phase IN ('attesting', 'unlocking') \
         ORDER BY m.guest_ms, m.instance LIMIT $2",
    )
    .bind(project.to_string())
    .bind(LISTED)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let columns = Columns(row);
            Ok(Unanswered {
                instance: columns.id("instance")?,
                boot: columns.id("boot")?,
                seq: columns.number("guest_seq")?,
            })
        })
        .collect()
}

impl Write {
    /// Stores the guest's message. A message of another boot starts both registers anew.
    pub(crate) async fn store_guest_message(
        &mut self,
        instance: InstanceId,
        project: ProjectId,
        message: &Message,
        same_boot: bool,
    ) -> Result<(), StoreError> {
        if !same_boot {
            self.clear_mailbox(instance, project).await?;
        }
        sqlx::query(
            "INSERT INTO mailboxes (instance, project, boot, guest_seq, guest_body, guest_ms) \
             VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (instance) DO UPDATE SET guest_seq = $4, guest_body = $5, guest_ms = $6",
        )
        .bind(instance.to_string())
        .bind(project.to_string())
        .bind(message.boot.to_string())
        .bind(signed(message.seq))
        .bind(word(&message.body)?)
        .bind(signed(self.at_ms))
        .execute(self.connection())
        .await?;
        self.notify(Notice::Mailboxes(project));
        Ok(())
    }

    /// Stores the broker's message.
    pub(crate) async fn store_broker_message(
        &mut self,
        instance: InstanceId,
        project: ProjectId,
        seq: u64,
        answers: u64,
        body: &Binary,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE mailboxes SET broker_seq = $2, broker_answers = $3, broker_body = $4 WHERE instance = $1")
            .bind(instance.to_string())
            .bind(signed(seq))
            .bind(signed(answers))
            .bind(word(body)?)
            .execute(self.connection())
            .await?;
        self.notify(Notice::Mailboxes(project));
        Ok(())
    }

    /// Forgets both registers.
    pub(crate) async fn clear_mailbox(&mut self, instance: InstanceId, project: ProjectId) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM mailboxes WHERE instance = $1")
            .bind(instance.to_string())
            .execute(self.connection())
            .await?;
        self.notify(Notice::Mailboxes(project));
        Ok(())
    }
}
