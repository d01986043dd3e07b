//! Certificates of the deployment: made when absent, issued again when they will not last or no longer fit.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use lambda_transport::pki::{Authority, CERTIFICATE_FILE, Issued, KEY_FILE, write_file};
use lambda_transport::{PeerIdentity, Role};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use x509_cert::der::Decode as _;

use crate::layout::{Layout, Owner, REGION, Settings, folder, write_for};
use crate::role::RoleName;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A service certificate with less left than this is issued again.
const RENEW: Duration = Duration::from_secs(90 * DAY.as_secs());

/// An authority with less left than this is warned of.
const WARN: Duration = Duration::from_secs(365 * DAY.as_secs());

/// Makes what is missing and renews what must be; the lines say what was done, and what to see to.
pub(crate) fn settle(layout: &Layout, settings: &Settings) -> Result<Vec<String>> {
    let authority = |name: &str, title: &str| Authority::load_or_generate(&layout.authority(name), title);
    let internal = authority("internal", "Lambda internal CA")?;
    let public = authority("public", "Lambda public CA")?;
    let platform = authority("platform", &format!("Lambda platform CA {REGION}"))?;
    let mut done = Vec::new();
    for role in RoleName::ALL {
        let (peer, address) = match role {
            RoleName::Gateway => (PeerIdentity::new(Role::Gateway, "main"), settings.gateway),
            RoleName::Control => (PeerIdentity::new(Role::Control, "main"), settings.control),
            RoleName::Node => (PeerIdentity::new(Role::Node, settings.node.to_string()), settings.tunnel),
        };
        // Peers are dialled by address and verified by role: the address is for people's tools, and may change freely.
        let names = [ServerName::try_from(peer.role.name())?];
        let wanted = Wanted { authority: &internal, names: &names, peer: Some(&peer) };
        let issue = || Ok(internal.issue_peer(&peer, &[address.ip()])?);
        done.extend(renew(&layout.role(role).join("internal"), &wanted, role, issue)?);
        write_for(&layout.role(role).join("internal-ca.pem"), internal.certificate_pem().as_bytes(), role.gid())?;
    }
    done.extend(public_certificate(layout, settings, &public)?);
    let node_ca = layout.role(RoleName::Node).join("node-ca");
    folder(&node_ca, 0o700, crate::layout::ROOT)?;
    if !node_ca.join(CERTIFICATE_FILE).exists() {
        platform.issue_authority(&format!("Lambda node CA {}", settings.node))?.save(&node_ca)?;
    }
    let pem = platform.certificate_pem().as_bytes();
    write_for(&layout.role(RoleName::Control).join("platform-ca.pem"), pem, RoleName::Control.gid())?;
    write_file(&layout.customer("ca.pem"), public.certificate_pem().as_bytes(), 0o644)?;
    let node = Authority::load(&node_ca)?;
    for (what, authority) in [("internal", &internal), ("public", &public), ("platform", &platform), ("node", &node)] {
        done.extend(warning(what, left(authority.certificate_der())?));
    }
    Ok(done)
}

fn public_certificate(layout: &Layout, settings: &Settings, public: &Authority) -> Result<Option<String>> {
    let (dns, addresses) = public_names(settings)?;
    let dns: Vec<&str> = dns.iter().map(String::as_str).collect();
    let mut names: Vec<ServerName<'_>> = addresses.iter().map(|address| ServerName::from(*address)).collect();
    for name in &dns {
        names.push(ServerName::try_from(*name).with_context(|| format!("--name {name}"))?);
    }
    let wanted = Wanted { authority: public, names: &names, peer: None };
    let issue = || Ok(public.issue_server(&dns, &addresses)?);
    renew(&layout.role(RoleName::Gateway).join("public"), &wanted, RoleName::Gateway, issue)
}

/// What a certificate must be.
struct Wanted<'a> {
    authority: &'a Authority,
    names: &'a [ServerName<'a>],
    peer: Option<&'a PeerIdentity>,
}

/// Issues the certificate in a folder unless it will do. The certificate goes first and comes last: a crash in between leaves
/// none, never one with another's key.
fn renew(
    at: &Path,
    wanted: &Wanted<'_>,
    role: RoleName,
    issue: impl FnOnce() -> Result<Issued>,
) -> Result<Option<String>> {
    folder(at, 0o750, Owner { uid: 0, gid: role.gid() })?;
    let path = at.join(CERTIFICATE_FILE);
    let reason = if path.exists() {
        let Some(reason) = unfit(&path, wanted)? else { return Ok(None) };
        std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
        Some(reason)
    } else {
        None
    };
    let issued = issue()?;
    write_for(&at.join(KEY_FILE), issued.key_pem.as_bytes(), role.gid())?;
    write_for(&path, issued.chain_pem.as_bytes(), role.gid())?;
    Ok(reason.map(|reason| format!("issued {} again: {reason}", path.display())))
}

/// Why a certificate must be issued again.
fn unfit(path: &Path, wanted: &Wanted<'_>) -> Result<Option<String>> {
    let Ok(certificate) = CertificateDer::from_pem_file(path) else { return Ok(Some("it is damaged".into())) };
    let Ok(parsed) = webpki::EndEntityCert::try_from(&certificate) else { return Ok(Some("it is damaged".into())) };
    let left = left(&certificate)?;
    if left < RENEW {
        return Ok(Some(format!("it had {} days left", left.as_secs() / DAY.as_secs())));
    }
    let anchors = [webpki::anchor_from_trusted_cert(wanted.authority.certificate_der())?];
    let usage = webpki::KeyUsage::server_auth();
    if let Err(error) =
        parsed.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &[], UnixTime::now(), usage, None, None)
    {
        return Ok(Some(format!("its authority does not vouch for it ({error})")));
    }
    if wanted.peer.is_some_and(|peer| PeerIdentity::from_certificate(&certificate).ok().as_ref() != Some(peer)) {
        return Ok(Some("it names another peer".into()));
    }
    let missing = wanted.names.iter().find(|name| parsed.verify_is_valid_for_subject_name(name).is_err());
    Ok(missing.map(|name| format!("it did not name {}", name.to_str())))
}

/// How long a certificate is still good; zero for one that has expired.
fn left(certificate: &CertificateDer<'_>) -> Result<Duration> {
    let parsed = x509_cert::Certificate::from_der(certificate).context("a stored certificate is damaged")?;
    let end = parsed.tbs_certificate().validity().not_after.to_unix_duration();
    Ok(end.saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?))
}

fn warning(what: &str, left: Duration) -> Option<String> {
    (left < WARN).then(|| {
        let days = left.as_secs() / DAY.as_secs();
        format!("warning: the {what} CA has {days} days left and is never renewed by itself; see docs/operating.md")
    })
}

/// Names and addresses that the gateway's certificate must be good for.
fn public_names(settings: &Settings) -> Result<(Vec<String>, Vec<IpAddr>)> {
    let mut dns = vec!["localhost".to_owned()];
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    match settings.gateway.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => addresses.extend(interface_addresses_v4()?),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            addresses.extend(interface_addresses_v4()?);
            addresses.extend(interface_addresses_v6()?);
        }
        address => addresses.push(address),
    }
    for name in &settings.names {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => dns.push(name.clone()),
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok((dns, addresses))
}

/// A `--name`: an address, or a DNS name.
pub(crate) fn check_name(name: &str) -> Result<()> {
    match ServerName::try_from(name) {
        Ok(_) => Ok(()),
        Err(_) => bail!("--name {name} is neither an address nor a DNS name"),
    }
}

fn interface_addresses_v4() -> Result<Vec<IpAddr>> {
    let text = std::fs::read_to_string("/proc/net/fib_trie").context("the addresses of this machine")?;
    Ok(parse_fib_trie(&text))
}

/// Leaves of the routing trie that the kernel answers for: `|-- ADDRESS`, then `/32 host LOCAL`.
fn parse_fib_trie(text: &str) -> Vec<IpAddr> {
    let mut leaf = None;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(leaf.take().map(IpAddr::V4));
        }
    }
    found
}

fn interface_addresses_v6() -> Result<Vec<IpAddr>> {
    match std::fs::read_to_string("/proc/net/if_inet6") {
        Ok(text) => Ok(parse_if_inet6(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context("the addresses of this machine"),
    }
}

/// Link-local addresses are left out: they mean nothing without an interface.
fn parse_if_inet6(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| u128::from_str_radix(line.split_ascii_whitespace().next()?, 16).ok())
        .map(Ipv6Addr::from_bits)
        .filter(|address| !address.is_unicast_link_local())
        .map(IpAddr::V6)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_read_from_the_kernel() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.1.0.7\n        \
                    /32 host LOCAL\n     |-- 10.1.0.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(parse_fib_trie(trie), [IpAddr::from([10, 1, 0, 7]), IpAddr::from([127, 0, 0, 1])]);
        let v6 = "00000000000000000000000000000001 01 80 10 80       lo\nfe800000000000000000000000000001 02 40 20 80  eth0\n\
                  20010db8000000000000000000000005 02 40 00 80  eth0\n";
        let expected: Vec<IpAddr> = ["::1", "2001:db8::5"].map(|text| text.parse().unwrap()).into();
        assert_eq!(parse_if_inet6(v6), expected);
        assert!(interface_addresses_v4().unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn a_certificate_of_another_authority_another_peer_or_other_names_does_not_fit() {
        let place = tempfile::tempdir().unwrap();
        let (ours, others) = (Authority::generate("ours").unwrap(), Authority::generate("others").unwrap());
        let peer = PeerIdentity::new(Role::Gateway, "main");
        ours.issue_peer(&peer, &[]).unwrap().save(place.path()).unwrap();
        let path = place.path().join(CERTIFICATE_FILE);
        let names = [ServerName::try_from("gateway").unwrap()];
        let wanted = Wanted { authority: &ours, names: &names, peer: Some(&peer) };
        assert_eq!(unfit(&path, &wanted).unwrap(), None);
        let reason = |wanted: Wanted<'_>| unfit(&path, &wanted).unwrap().unwrap();
        assert!(reason(Wanted { authority: &others, ..wanted }).contains("vouch"));
        let other = PeerIdentity::new(Role::Gateway, "second");
        assert!(reason(Wanted { authority: &ours, names: &names, peer: Some(&other) }).contains("peer"));
        let more = [ServerName::try_from("10.9.8.7").unwrap()];
        assert!(reason(Wanted { authority: &ours, names: &more, peer: None }).contains("10.9.8.7"));
        std::fs::write(&path, "damaged").unwrap();
        assert!(reason(Wanted { authority: &ours, names: &names, peer: None }).contains("damaged"));
    }

    #[test]
    fn an_authority_is_warned_of_in_its_last_year_only() {
        assert!(warning("public", WARN).is_none());
        assert!(warning("public", WARN - DAY).unwrap().contains("364 days left"));
    }
}
