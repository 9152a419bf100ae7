//! Offers read back, and bytes that are none.

use proptest::prelude::*;

use super::*;

fn offer() -> impl Strategy<Value = Offer> {
    let mtu = prop::sample::select(vec![Mtu::B256, Mtu::B512, Mtu::B1024, Mtu::B2048, Mtu::B4096]);
    let limits = (1..=1usize << 10, 1..=1usize << 10, 1..=1usize << 10, 0..=1usize << 30, 0..=1usize << 30);
    let limits = limits.prop_map(|l| Limits {
        message_bytes_max: l.0,
        receives: l.1,
        posted_max: l.2,
        slots_bytes: l.3,
        staging_bytes: l.4,
    });
    let remote = (0..1u64 << 62, any::<u32>()).prop_map(|(address, key)| Remote { address, key });
    let ends = (any::<bool>(), any::<bool>(), 1..0xC000u16, 1..u128::MAX >> 8);
    (ends, mtu, 2..=BITS_24, 0..=BITS_24, remote.clone(), remote, limits).prop_map(
        |((ethernet, global, lid, gid), mtu, queue_pair, sequence, slots, load, limits)| Offer {
            link_layer: if ethernet { LinkLayer::Ethernet } else { LinkLayer::InfiniBand },
            mtu,
            global: ethernet || global,
            lid,
            gid: gid.into(),
            queue_pair,
            sequence,
            slots,
            load,
            limits,
        },
    )
}

/// One offer that is good.
fn good() -> Offer {
    let limits =
        Limits { message_bytes_max: 1, receives: 1, posted_max: 1, slots_bytes: 4096, staging_bytes: 0 };
    Offer {
        link_layer: LinkLayer::Ethernet,
        mtu: Mtu::B1024,
        global: true,
        lid: 0,
        gid: "::ffff:10.0.0.1".parse().unwrap(),
        queue_pair: 17,
        sequence: 1,
        slots: Remote { address: 4096, key: 1 },
        load: Remote { address: 8192, key: 2 },
        limits,
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(offer in offer()) {
        prop_assert_eq!(Offer::from_bytes(&offer.to_bytes()), Ok(offer));
    }

    #[test]
    fn any_other_length_is_refused(offer in offer(), more in prop::collection::vec(any::<u8>(), 1..9), cut in 0..OFFER_BYTES) {
        let bytes = offer.to_bytes();
        prop_assert!(Offer::from_bytes(&bytes[..cut]).is_err());
        prop_assert!(Offer::from_bytes(&[&bytes[..], &more].concat()).is_err());
    }

    #[test]
    fn garbage_never_panics_and_what_is_read_is_bounded(
        offer in offer(),
        changes in prop::collection::vec((0..OFFER_BYTES, any::<u8>()), 0..20),
    ) {
        let mut bytes = offer.to_bytes();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if let Ok(read) = Offer::from_bytes(&bytes) {
            prop_assert_eq!(read.check(), Ok(()));
            prop_assert_eq!(read.to_bytes(), bytes);
        }
    }
}

#[test]
fn fields_are_bounded() {
    type Change = fn(&mut Offer);
    let bad: [(&str, Change); 12] = [
        ("LID", |o| (o.link_layer, o.global, o.lid) = (LinkLayer::InfiniBand, false, 0)),
        ("LID", |o| (o.link_layer, o.global, o.lid) = (LinkLayer::InfiniBand, false, 0xC000)),
        ("global routing flag", |o| o.global = false),
        ("GID", |o| o.gid = Ipv6Addr::UNSPECIFIED),
        ("GID", |o| o.gid = "ff0e::1".parse().unwrap()),
        ("queue-pair number", |o| o.queue_pair = 1),
        ("queue-pair number", |o| o.queue_pair = 1 << 24),
        ("sequence number", |o| o.sequence = 1 << 24),
        ("slots", |o| o.slots.address = u64::MAX - 4095),
        ("load page", |o| o.load.address = u64::MAX - 63),
        ("receives", |o| o.limits.receives = 0),
        ("slots_bytes", |o| o.limits.slots_bytes = usize::MAX / 2),
    ];
    assert_eq!(Offer::from_bytes(&good().to_bytes()), Ok(good()));
    for (field, change) in bad {
        let mut offer = good();
        change(&mut offer);
        let error = Offer::from_bytes(&offer.to_bytes()).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn bytes_that_are_no_offer_say_what_to_do() {
    let good = good().to_bytes();
    let refusal = |bytes: &[u8]| Offer::from_bytes(bytes).unwrap_err().to_string();
    for (at, byte, what) in [
        (0, b'x', "the peer's offer is none"),
        (6, 3, "the peer's offer has no valid link layer"),
        (7, 6, "the peer's offer has no valid path MTU"),
        (8, 2, "the peer's offer has no valid global routing flag"),
    ] {
        let mut bytes = good;
        bytes[at] = byte;
        assert_eq!(refusal(&bytes), format!("{what}: run the same release on both"));
    }
    let short = refusal(&good[..OFFER_BYTES - 1]);
    assert!(short.contains(&format!("has {} bytes, not {OFFER_BYTES}: run", OFFER_BYTES - 1)), "{short}");
}

#[test]
fn another_version_is_named_whatever_its_length() {
    let mut bytes = good().to_bytes().to_vec();
    bytes[5] = 9;
    for cut in [6, 40, bytes.len()] {
        assert_eq!(Offer::from_bytes(&bytes[..cut]), Err(OfferError::Version { theirs: 9 }));
    }
    bytes[0] = b'x';
    assert_eq!(Offer::from_bytes(&bytes), Err(OfferError::Magic));
}
