//! The node's network namespace: a bind-mounted file, and one thread that lives in it.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use rustix::mount::UnmountFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::NetworkError;

type Job = Box<dyn FnOnce() + Send>;

/// A handle to the thread inside the namespace. Sockets and taps opened there belong to the namespace for good, and
/// may be used from any thread; children started there live in it.
#[derive(Clone)]
pub(crate) struct Namespace {
    jobs: mpsc::Sender<Job>,
}

/// Kernel settings, for every interface that will ever appear here.
const SETTINGS: [(&str, &str); 16] = [
    ("ipv4/ip_forward", "0"),
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv4/conf/default/rp_filter", "1"),
    // Answer ARP only for the address of the tap it came in on: a guest learns nothing of its neighbours.
    ("ipv4/conf/all/arp_ignore", "1"),
    ("ipv4/conf/default/arp_ignore", "1"),
    ("ipv4/conf/all/arp_announce", "2"),
    ("ipv4/conf/default/arp_announce", "2"),
    ("ipv4/conf/all/proxy_arp", "0"),
    ("ipv4/conf/default/proxy_arp", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/default/accept_source_route", "0"),
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
];

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
    move |source| NetworkError::Namespace { operation, source }
}

impl Namespace {
    /// Enters the namespace mounted at `path`, making it first if there is none.
    ///
    /// # Errors
    /// When the kernel refuses: missing capabilities, or a host without network namespaces.
    pub(crate) fn open(path: &Path) -> Result<Self, NetworkError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (report, ready) = mpsc::channel();
        let path = path.to_owned();
        std::thread::Builder::new()
            .name("node-netns".into())
            .spawn(move || {
                let entered = enter(&path).and_then(|()| configure());
                let usable = entered.is_ok();
                if report.send(entered).is_ok() && usable {
                    queue.iter().for_each(|job| job());
                }
            })
            .map_err(failed("start a thread"))?;
        ready.recv().map_err(|_| NetworkError::Worker)??;
        Ok(Self { jobs })
    }

    /// Runs `job` on the thread inside the namespace.
    ///
    /// # Errors
    /// When the thread is gone.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NetworkError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let job = Box::new(move || drop(reply.send(job())));
        self.jobs.send(job).map_err(|_| NetworkError::Worker)?;
        answer.await.map_err(|_| NetworkError::Worker)
    }
}

fn is_mounted(path: &Path) -> bool {
    const NSFS: u64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| kind == NSFS))
}

fn enter(path: &Path) -> Result<(), NetworkError> {
    if is_mounted(path) {
        let file = std::fs::File::open(path).map_err(failed("open the namespace file"))?;
        return rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| failed("enter the namespace")(errno.into()));
    }
    std::fs::File::create(path).map_err(failed("create the namespace file"))?;
    // SAFETY: NEWNET changes the calling thread's network namespace alone, not its memory or descriptors.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(|errno| failed("make a namespace")(errno.into()))?;
    let own = PathBuf::from("/proc/thread-self/ns/net");
    rustix::mount::mount_bind(&own, path).map_err(|errno| failed("mount the namespace file")(errno.into()))
}

fn configure() -> Result<(), NetworkError> {
    for (name, value) in SETTINGS {
        let path = Path::new("/proc/sys/net").join(name);
        match std::fs::write(&path, value) {
            // A kernel without IPv6 needs no rule against it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && name.starts_with("ipv6/") => {}
            Err(error) => return Err(failed("write a network setting")(error)),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Unmounts and removes the namespace file; none is fine. The namespace ends with its last process and descriptor.
///
/// # Errors
/// When it cannot be unmounted.
pub(crate) fn remove(path: &Path) -> Result<(), NetworkError> {
    while is_mounted(path) {
        rustix::mount::unmount(path, UnmountFlags::DETACH)
            .map_err(|errno| failed("unmount the namespace file")(errno.into()))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove the namespace file")(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode() -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
    }

    #[tokio::test]
    async fn the_namespace_is_not_the_hosts_and_a_second_agent_finds_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("netns");
        let first = Namespace::open(&path).unwrap();
        let one = first.run(inode).await.unwrap();
        assert_ne!(one, inode());
        drop(first);
        let second = Namespace::open(&path).unwrap();
        assert_eq!(second.run(inode).await.unwrap(), one);
        drop(second);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn settings_apply_inside_and_not_on_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("netns");
        let read = || std::fs::read_to_string("/proc/sys/net/ipv4/conf/default/arp_ignore").unwrap();
        let before = read();
        let namespace = Namespace::open(&path).unwrap();
        assert_eq!(namespace.run(read).await.unwrap().trim(), "1");
        assert_eq!(read(), before);
        remove(&path).unwrap();
    }
}
