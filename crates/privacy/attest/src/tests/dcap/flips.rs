//! Every bit of what is signed, and every length: nothing but the quote itself is accepted.

use super::scene::*;
use crate::verdict::Outcome;

/// Judges changed quotes under one scene; the collateral is made once.
fn accepted(scene: &Scene, quotes: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<String> {
    let (anchors, collateral) = (scene.anchors(), scene.made_collateral());
    quotes
        .filter_map(|(name, quote)| {
            let (_, checks) = scene.judge_quote(quote, scene.log(), &anchors, &collateral);
            checks.iter().all(|check| check.outcome != Outcome::Fail).then_some(name)
        })
        .collect()
}

/// Every byte of what is signed, and every `step`th byte of the certificates behind it.
fn flipped(quote: &[u8], step: usize) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
    let pem = quote.windows(10).position(|window| window == b"-----BEGIN").unwrap();
    (0..pem).chain((pem..quote.len()).step_by(step)).map(|at| {
        let mut quote = quote.to_vec();
        quote[at] ^= 1 << (at % 8);
        (format!("byte {at}"), quote)
    })
}

/// White space around a PEM certificate may be any.
fn means_nothing(quote: &[u8], changed: &[u8]) -> bool {
    let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    quote.iter().zip(changed).all(|(a, b)| a == b || (is_space(a) && is_space(b)))
}

#[test]
fn no_flipped_byte_is_accepted() {
    for (scene, step) in [(Scene::tdx(), 11), (Scene::tdx_10(), 13), (Scene::sgx(), 1)] {
        let quote = scene.quote_bytes();
        let accepted = accepted(&scene, flipped(&quote, step).filter(|(_, changed)| !means_nothing(&quote, changed)));
        assert_eq!(accepted, Vec::<String>::new());
    }
}

#[test]
fn no_shortened_quote_is_accepted() {
    for scene in [Scene::tdx(), Scene::tdx_10(), Scene::sgx()] {
        let quote = scene.quote_bytes();
        let shortened = (0..quote.len()).map(|length| (format!("{length} bytes"), quote[..length].to_vec()));
        assert_eq!(accepted(&scene, shortened), Vec::<String>::new());
    }
}
