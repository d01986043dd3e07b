//! Taps: made inside the node's namespace, handed to QEMU as a descriptor.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Opcode, Setter, Updater};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{NetworkError, Segment};

const TUNSETIFF: Opcode = 0x4004_54ca;
const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCSIFADDR: Opcode = 0x8916;
const SIOCSIFNETMASK: Opcode = 0x891c;

const IFF_UP: i16 = 1;
const IFF_TAP: i16 = 0x0002;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
const AF_INET: u16 = 2;

const NAME_LEN: usize = 16;

/// `struct ifreq` with `ifr_flags`.
#[repr(C)]
struct FlagsRequest {
    name: [u8; NAME_LEN],
    flags: i16,
    rest: [u8; 22],
}

/// `struct ifreq` with `ifr_addr` as a `struct sockaddr_in`.
#[repr(C)]
struct AddressRequest {
    name: [u8; NAME_LEN],
    family: u16,
    port: u16,
    address: [u8; 4],
    rest: [u8; 16],
}

/// The name of the tap in a slot.
pub(crate) fn name(slot: u32) -> String {
    format!("lam{slot}")
}

fn name_bytes(name: &str) -> [u8; NAME_LEN] {
    let mut bytes = [0; NAME_LEN];
    // The last byte stays zero.
    bytes.iter_mut().take(NAME_LEN - 1).zip(name.bytes()).for_each(|(to, from)| *to = from);
    bytes
}

/// Makes a tap with the node's end of the segment, up. Must run inside the namespace. The tap ends with its descriptor.
///
/// # Errors
/// When the kernel refuses, which is also the case while another QEMU holds a tap of this name.
pub(crate) fn create(tap: &str, segment: Segment) -> Result<OwnedFd, NetworkError> {
    let failed = |operation: &'static str| {
        move |source: rustix::io::Errno| NetworkError::Tap { tap: tap.into(), operation, source: source.into() }
    };
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(failed("open /dev/net/tun"))?;
    attach(&device, tap).map_err(failed("create it"))?;
    let control = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(failed("open a socket"))?;
    set_address::<SIOCSIFADDR, _>(&control, tap, segment.node).map_err(failed("set its address"))?;
    set_address::<SIOCSIFNETMASK, _>(&control, tap, segment.mask().into()).map_err(failed("set its prefix"))?;
    set_up(&control, tap).map_err(failed("bring it up"))?;
    verify(tap).map_err(|source| NetworkError::Tap { tap: tap.into(), operation: "check its settings", source })?;
    Ok(device)
}

fn attach(device: &OwnedFd, tap: &str) -> rustix::io::Result<()> {
    let request = FlagsRequest { name: name_bytes(tap), flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    // SAFETY: TUNSETIFF reads a whole ifreq, which FlagsRequest lays out.
    unsafe { rustix::ioctl::ioctl(device, Setter::<TUNSETIFF, FlagsRequest>::new(request)) }
}

fn set_address<const CODE: Opcode, Fd: AsFd>(control: Fd, tap: &str, address: Ipv4Addr) -> rustix::io::Result<()> {
    let request =
        AddressRequest { name: name_bytes(tap), family: AF_INET, port: 0, address: address.octets(), rest: [0; 16] };
    // SAFETY: SIOCSIFADDR and SIOCSIFNETMASK read a whole ifreq, which AddressRequest lays out.
    unsafe { rustix::ioctl::ioctl(control, Setter::<CODE, AddressRequest>::new(request)) }
}

fn set_up(control: &OwnedFd, tap: &str) -> rustix::io::Result<()> {
    let mut request = FlagsRequest { name: name_bytes(tap), flags: 0, rest: [0; 22] };
    // SAFETY: SIOCGIFFLAGS reads and writes a whole ifreq, which FlagsRequest lays out.
    unsafe { rustix::ioctl::ioctl(control, Updater::<SIOCGIFFLAGS, FlagsRequest>::new(&mut request))? };
    request.flags |= IFF_UP;
    // SAFETY: SIOCSIFFLAGS reads a whole ifreq, which FlagsRequest lays out.
    unsafe { rustix::ioctl::ioctl(control, Setter::<SIOCSIFFLAGS, FlagsRequest>::new(request)) }
}

/// The namespace's defaults must have reached the tap: a host that overrides them would open it silently.
fn verify(tap: &str) -> io::Result<()> {
    let expected = [("ipv4", "arp_ignore", "1"), ("ipv4", "rp_filter", "1"), ("ipv6", "disable_ipv6", "1")];
    for (family, setting, value) in expected {
        match std::fs::read_to_string(format!("/proc/sys/net/{family}/conf/{tap}/{setting}")) {
            Ok(found) if found.trim() == value => {}
            Ok(found) => return Err(io::Error::other(format!("{setting} is {} instead of {value}", found.trim()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && family == "ipv6" => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
