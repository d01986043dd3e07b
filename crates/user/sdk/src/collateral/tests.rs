use lambda_attest::AmdLine;

use super::*;
use crate::policies::keys::PolicyKey;

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

/// A document in the form of Intel's, current for years.
fn identity() -> Entry {
    let chain = rcgen::generate_simple_self_signed(["intel".to_owned()]).unwrap().cert.pem();
    let body = serde_json::json!({"enclaveIdentity": {"id": "TD_QE", "issueDate": "2020-01-01T00:00:00Z",
        "nextUpdate": "2099-01-01T00:00:00Z"}, "signature": "00"});
    let body = body.to_string().into_bytes().into();
    let document = Document::IntelQe { technology: Technology::Tdx };
    Entry { body, issuer_chain: Some(chain), ..entry(document, 0) }
}

#[test]
fn what_a_bundle_says_of_its_documents_is_looked_at_however_well_it_is_signed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, key) = (dir.path().join("bundle.json"), PolicyKey::generate().unwrap());
    let (cache, _dir) = cache(&[]);
    let import = |entries: &[Entry]| {
        let bundle = serde_json::json!({"version": 1, "documents": entries});
        files::write(&path, &key.sign(lambda_attest::envelope::COLLATERAL_TYPE, bundle.to_string().into())).unwrap();
        super::import(&cache, &path, &[key.public()], NOW)
    };
    let good = identity();
    let long = Entry { body: vec![b' '; 256 * 1024 + 1].into(), ..good.clone() };
    let chainless = Entry { issuer_chain: None, ..good.clone() };
    let other_format = Entry { format: FORMAT + 1, ..good.clone() };
    let renamed = Entry { document: Document::IntelQe { technology: Technology::Sgx }, ..good.clone() };
    for (entries, reason) in [
        (vec![], "no document"),
        (vec![good.clone(), good.clone()], "twice"),
        (vec![long], "longer than"),
        (vec![chainless], "missing"),
        (vec![other_format], "format 2"),
        (vec![renamed], "`TD_QE` instead of `QE`"),
    ] {
        let refused = import(&entries).unwrap_err();
        assert!(matches!(&refused, Error::NotTrusted(why) if why.contains(reason)), "{reason}: {refused}");
        assert_eq!(cache.entries().unwrap(), [], "{reason}");
    }
    let imported = import(std::slice::from_ref(&good)).unwrap();
    let [Imported { entry, stored: true }] = imported.as_slice() else { panic!("{imported:?}") };
    assert_eq!(entry.until, "2099-01-01T00:00:00Z".parse().unwrap(), "as the document says, not as the bundle does");
    assert_eq!(cache.entries().unwrap(), [Entry { until: entry.until, ..good }]);
}
