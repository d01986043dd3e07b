use lambda_attest::AmdLine;

use super::*;

const NOW: UnixTime = UnixTime(1_800_000_000);

fn entry(document: Document, until: i64) -> Entry {
    let chain = document.chain_header().map(|_| "chain".to_owned());
    let body = document.name().into_bytes().into();
    let source = "https://publisher".into();
    let fetched = UnixTime(NOW.0 - 10);
    Entry { format: FORMAT, document, source, fetched, until: UnixTime(until), body, issuer_chain: chain }
}

fn cache(entries: &[Entry]) -> (Cache, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::of(&Folder::at(dir.path()));
    for entry in entries {
        cache.store(entry).unwrap();
    }
    (cache, dir)
}

fn crl(line: AmdLine) -> Document {
    Document::AmdCrl { line, key: AmdKey::Vcek }
}

#[test]
fn what_ran_out_is_never_handed_out() {
    let (milan, genoa) = (crl(AmdLine::Milan), crl(AmdLine::Genoa));
    let (cache, _dir) = cache(&[entry(milan.clone(), NOW.0), entry(genoa, NOW.0 - 1)]);
    let found = cache.collateral(NOW).unwrap();
    assert_eq!(found.amd.unwrap().crls, [milan.name().into_bytes().into()]);
    assert_eq!(found.as_of, Some(UnixTime(NOW.0 - 10)));
    assert_eq!(cache.collateral(UnixTime(NOW.0 + 1)).unwrap(), Collateral::none());
}

#[test]
fn an_intel_platform_is_handed_out_whole_or_not_at_all() {
    let (technology, ca) = (Technology::Tdx, PckCa::Platform);
    let documents = [
        Document::IntelTcb { technology, fmspc: "00806f050000".into(), ca },
        Document::IntelQe { technology },
        Document::IntelPckCrl { ca },
        Document::IntelRootCrl,
    ];
    let entries: Vec<Entry> = documents.iter().map(|document| entry(document.clone(), NOW.0 + 9)).collect();
    let (whole, _dir) = cache(&entries);
    let found = whole.collateral(NOW).unwrap();
    let [platform] = found.intel.as_slice() else { panic!("{found:?}") };
    assert_eq!((platform.tcb_info.as_str(), platform.tcb_info_issuer_chain.as_str()), (&*documents[0].name(), "chain"));
    assert_eq!(platform.root_ca_crl.as_slice(), documents[3].name().as_bytes());
    for missing in 0..entries.len() {
        let mut some = entries.clone();
        let _ = some.remove(missing);
        assert!(cache(&some).0.collateral(NOW).unwrap().intel.is_empty(), "{missing}");
    }
    let other = Document::IntelPckCrl { ca: PckCa::Processor };
    let wrong: Vec<Entry> =
        [&documents[0], &documents[1], &other, &documents[3]].map(|document| entry(document.clone(), NOW.0 + 9)).into();
    assert!(cache(&wrong).0.collateral(NOW).unwrap().intel.is_empty(), "the revocation list of another CA");
}

#[test]
fn a_file_that_holds_another_document_than_its_name_says_is_refused() {
    let (cache, _dir) = cache(&[entry(crl(AmdLine::Milan), NOW.0)]);
    let from = cache.path(&crl(AmdLine::Milan));
    std::fs::rename(from, cache.path(&crl(AmdLine::Genoa))).unwrap();
    assert!(matches!(cache.load(&crl(AmdLine::Genoa)), Err(Error::Damaged { .. })));
}

#[test]
fn what_changes_is_fresh_for_a_day_and_what_does_not_until_it_ends() {
    let fetched = NOW.0 - 10;
    let list = entry(crl(AmdLine::Milan), NOW.0 + 10 * FRESH_SECONDS);
    assert!(list.is_fresh(NOW) && !list.is_fresh(UnixTime(fetched + FRESH_SECONDS)));
    assert!(!list.is_fresh(UnixTime(fetched - 1)), "a clock that went back");
    let chain = entry(Document::AmdChain { line: AmdLine::Milan, key: AmdKey::Vlek }, NOW.0 + 10 * FRESH_SECONDS);
    assert!(chain.is_fresh(UnixTime(fetched + 5 * FRESH_SECONDS)));
    assert!(!chain.is_fresh(UnixTime(NOW.0 + 11 * FRESH_SECONDS)));
}
