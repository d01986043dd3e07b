//! What wakes long-polls, and which nodes are listening. Nothing here is state that a restart would miss: every waiter
//! reads the store again after it wakes, and registers before it reads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lambda_types::{InstanceId, NodeId, ProjectId};
use tokio::sync::Notify;

/// How long after its last word a node still counts as reachable.
pub(crate) const NODE_FRESH_MS: u64 = 45_000;

/// What a committed change must wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Notice {
    /// What is desired of a node changed.
    Node(NodeId),
    /// A mailbox of the project changed.
    Mailboxes(ProjectId),
    /// Capacity may have become free.
    Capacity,
}

#[derive(Debug, Default)]
struct NodePresence {
    wake: Arc<Notify>,
    polling: usize,
    seen_ms: u64,
    /// Whose broker message ended the last answer that could not carry all.
    broker_cursor: Option<InstanceId>,
}

/// Wakers by what they wait for.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    nodes: Mutex<HashMap<NodeId, NodePresence>>,
    mailboxes: Mutex<HashMap<ProjectId, Arc<Notify>>>,
    capacity: Notify,
}

/// Counts a node as listening while its request is held.
pub(crate) struct Polling {
    hub: Arc<Hub>,
    node: NodeId,
}

impl Drop for Polling {
    fn drop(&mut self) {
        if let Some(presence) = lock(&self.hub.nodes).get_mut(&self.node) {
            presence.polling = presence.polling.saturating_sub(1);
        }
    }
}

impl Hub {
    pub(crate) fn publish(&self, notice: Notice) {
        match notice {
            Notice::Node(node) => self.node(node).notify_waiters(),
            Notice::Mailboxes(project) => self.mailboxes(project).notify_waiters(),
            Notice::Capacity => self.capacity.notify_one(),
        }
    }

    pub(crate) fn node(&self, node: NodeId) -> Arc<Notify> {
        lock(&self.nodes).entry(node).or_default().wake.clone()
    }

    pub(crate) fn mailboxes(&self, project: ProjectId) -> Arc<Notify> {
        lock(&self.mailboxes).entry(project).or_default().clone()
    }

    pub(crate) fn capacity(&self) -> &Notify {
        &self.capacity
    }

    /// Records that a node speaks now, and that it listens until the guard is dropped.
    pub(crate) fn polling(self: &Arc<Self>, node: NodeId, now_ms: u64) -> Polling {
        let mut nodes = lock(&self.nodes);
        let presence = nodes.entry(node).or_default();
        presence.polling += 1;
        presence.seen_ms = presence.seen_ms.max(now_ms);
        Polling { hub: self.clone(), node }
    }

    /// Where the next answer to a node goes on with broker messages.
    pub(crate) fn broker_cursor(&self, node: NodeId) -> Option<InstanceId> {
        lock(&self.nodes).get(&node).and_then(|presence| presence.broker_cursor)
    }

    pub(crate) fn set_broker_cursor(&self, node: NodeId, cursor: Option<InstanceId>) {
        if let Some(presence) = lock(&self.nodes).get_mut(&node) {
            presence.broker_cursor = cursor;
        }
    }

    /// When a node was last heard from: now, while it listens; else the later of memory and store.
    pub(crate) fn last_seen_ms(&self, node: NodeId, stored_ms: u64, now_ms: u64) -> u64 {
        match lock(&self.nodes).get(&node) {
            Some(presence) if presence.polling > 0 => now_ms,
            Some(presence) => presence.seen_ms.max(stored_ms),
            None => stored_ms,
        }
    }
}

/// Whether a node that was last heard from then may be given work.
pub(crate) fn is_fresh(last_seen_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(last_seen_ms) <= NODE_FRESH_MS
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_seen_now_while_it_listens_and_ages_after() {
        let hub = Arc::new(Hub::default());
        let node = NodeId::from_bits(1);
        let polling = hub.polling(node, 1_000);
        assert_eq!(hub.last_seen_ms(node, 0, 90_000), 90_000);
        drop(polling);
        assert_eq!(hub.last_seen_ms(node, 0, 90_000), 1_000);
        assert!(!is_fresh(1_000, 90_000));
        assert!(is_fresh(1_000, 46_000));
    }
}
