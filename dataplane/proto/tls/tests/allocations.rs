//! No heap allocation per record, in either direction, for any suite, lent or not.

mod common;

use std::sync::Arc;

use common::*;
use keyferry_tls::*;

#[test]
fn records_cost_no_allocation() {
    let (ecdsa, rsa) = (Identity::new(Kind::Ecdsa, &["a.test"]), Identity::new(Kind::Rsa, &["a.test"]));
    let server = Server::new(&options(&[&ecdsa, &rsa])).unwrap();
    let plaintext = vec![7; PLAINTEXT_BYTES_MAX];
    let mut out = vec![0; SEALED_BYTES_MAX];
    for suite in all_suites() {
        let config = Arc::new(client_config(&[&ecdsa, &rsa], &[suite]));
        let mut pair = connect(&server, client(&config, "a.test"), b"").unwrap();
        std::io::Write::write_all(&mut pair.client.writer(), &plaintext).unwrap();
        let mut wire = records(&from_client(&mut pair.client));
        let Established { opener, sealer, .. } = &mut *pair.server;
        let counted = allocation_counter::measure(|| {
            for record in &mut wire {
                opener.open(record).unwrap();
            }
            for len in [0, 256, 1400, PLAINTEXT_BYTES_MAX] {
                sealer.seal(Content::Data, &plaintext[..len], &mut out).unwrap();
            }
            sealer.close_notify(&mut out).unwrap();
        });
        assert_eq!(counted.count_total, 0, "{suite:?}");
        let key = sealer.lend(10).unwrap();
        let mut borrower = LentSealer::new(key);
        let counted = allocation_counter::measure(|| {
            for _ in 0..10 {
                borrower.seal_data(&plaintext, &mut out).unwrap();
            }
        });
        assert_eq!(counted.count_total, 0, "{suite:?}, lent");
        // The lease itself: only aws-lc's key, which is not on our heap.
        sealer.reclaim(borrower.used()).unwrap();
        let counted = allocation_counter::measure(|| {
            let mut wire = [0; RecordKey::WIRE_BYTES];
            sealer.lend(10).unwrap().encode(&mut wire);
            drop(LentSealer::new(RecordKey::decode(&wire).unwrap()));
        });
        assert_eq!(counted.count_total, 0, "{suite:?}, lease");
    }
}
