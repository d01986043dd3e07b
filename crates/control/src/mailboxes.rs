//! Mailboxes: relaying what a guest and its broker say, without understanding it.

use lambda_types::api_key::Principal;
use lambda_types::instance::Power;
use lambda_types::mailbox::{MAX_BODY_BYTES, Message, PostMessage, ReadMailbox};
use lambda_types::{Code, InstanceId};

use crate::audit::Event;
use crate::instances;
use crate::store::instance::InstanceRow;
use crate::store::{Refusal, StoreError, Write};

/// Takes the broker's message, if it answers the guest's latest.
pub(crate) async fn post(
    write: &mut Write,
    principal: &Principal,
    id: InstanceId,
    message: &PostMessage,
) -> Result<ReadMailbox, Refusal> {
    let PostMessage { boot, answers, body } = message;
    let size = body.as_slice().len();
    if size == 0 || size > MAX_BODY_BYTES {
        let detail = format!("body must take 1 to {MAX_BODY_BYTES} bytes, it takes {size}");
        return Err(Refusal::new(Code::InvalidRequest, detail));
    }
    let row = instances::find(write, principal, id).await?;
    let mailbox = row.mailbox;
    if mailbox.boot != Some(*boot) {
        return Err(Refusal::new(Code::Conflict, "this is not the instance's current boot; read the mailbox again"));
    }
    if mailbox.guest_seq != *answers {
        let detail = format!("the guest's latest message is {}, not {answers}; read it first", mailbox.guest_seq);
        return Err(Refusal::new(Code::Conflict, detail));
    }
    let seq = mailbox.broker_seq.saturating_add(1);
    write.store_broker_message(row.id, row.project, seq, *answers, body).await?;
    write.advance_generation(row.id, 0).await?;
    if let Some(node) = row.node {
        write.touch_node(node).await?;
    }
    write.audit(&Event::MailboxFromBroker { instance: row.id, boot: *boot, seq, answers: *answers }).await?;
    Ok(ReadMailbox { guest: None, broker_seq: seq, broker_answers: *answers })
}

/// True when a message that a node reports is news: of the wanted boot, and newer than what is stored.
pub(crate) fn is_news(row: &InstanceRow, epoch: u64, message: &Message) -> bool {
    let fits = (1..=MAX_BODY_BYTES).contains(&message.body.as_slice().len()) && message.seq > 0;
    let newer = row.mailbox.boot != Some(message.boot) || message.seq > row.mailbox.guest_seq;
    fits && newer && epoch == row.epoch && row.power == Power::Running
}

/// Stores a guest's message that [`is_news`].
pub(crate) async fn receive(write: &mut Write, row: &InstanceRow, message: &Message) -> Result<(), StoreError> {
    let same_boot = row.mailbox.boot == Some(message.boot);
    write.store_guest_message(row.id, row.project, message, same_boot).await?;
    if !same_boot && row.mailbox.broker_seq > 0 {
        // The node must stop handing the former boot's answer to the new one.
        if let Some(node) = row.node {
            write.touch_node(node).await?;
        }
    }
    Ok(())
}
