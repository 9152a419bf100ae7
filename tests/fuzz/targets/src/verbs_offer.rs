//! What a peer offers for a queue pair, as bytes of any content.
//!
//! Input: a byte that says how to read the rest: as it is, or as what comes behind the right first bytes.

use keyferry_fabric::LOAD_BYTES;
use keyferry_fabric::verbs::{LinkLayer, OFFER_BYTES, OFFER_VERSION, Offer};

use crate::input::Input;
use crate::{Seed, Target};

pub(crate) static TARGET: Target = Target { name: "verbs_offer", heap_bytes_max: 4096, execute, seeds };

fn execute(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let framed = input.u8() & 1 != 0;
    let rest = input.rest();
    let mut bytes = Vec::with_capacity(OFFER_BYTES + 16);
    if framed {
        bytes.extend_from_slice(b"kfqp");
        bytes.extend_from_slice(&OFFER_VERSION.to_be_bytes());
    }
    bytes.extend_from_slice(&rest[..rest.len().min(OFFER_BYTES + 8)]);
    let Ok(offer) = Offer::from_bytes(&bytes) else { return };
    assert!(
        (2..1 << 24).contains(&offer.queue_pair) && offer.sequence < 1 << 24,
        "24 bits, and no management"
    );
    assert!(offer.limits.check().is_ok(), "the limits are within their bounds");
    let end = offer.slots.address.checked_add(offer.limits.slots_bytes as u64);
    assert!(end.is_some(), "each byte of the slots has an address");
    assert!(offer.load.address.checked_add(LOAD_BYTES as u64).is_some(), "so has each of the load page");
    assert!(offer.global || offer.link_layer == LinkLayer::InfiniBand, "Ethernet goes by GID");
    let wire = offer.to_bytes();
    assert_eq!(wire[..], bytes, "there is one form of each offer");
}

fn seeds() -> Vec<Seed> {
    let behind = |link_layer: u8, global: u8, lid: u16| {
        let mut behind = vec![link_layer, 3, global];
        behind.extend(lid.to_be_bytes());
        behind.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 10, 0, 0, 1]);
        behind.extend(17u32.to_be_bytes());
        behind.extend(0xAB_CDEFu32.to_be_bytes());
        for (address, key) in [(0x7F00_0000_0000u64, 1u32), (0x7F00_0010_0000, 2)] {
            behind.extend(address.to_be_bytes());
            behind.extend(key.to_be_bytes());
        }
        for limit in [16_384u64, 64, 256, 1 << 20, 1 << 20] {
            behind.extend(limit.to_be_bytes());
        }
        behind
    };
    let framed = |behind: Vec<u8>| [vec![1], behind].concat();
    let mut whole = vec![0];
    whole.extend(b"kfqp");
    whole.extend(OFFER_VERSION.to_be_bytes());
    whole.extend(behind(2, 1, 0));
    vec![
        ("whole".into(), whole),
        ("ethernet".into(), framed(behind(2, 1, 0))),
        ("infiniband".into(), framed(behind(1, 0, 7))),
        ("infiniband-global".into(), framed(behind(1, 1, 0))),
    ]
}
