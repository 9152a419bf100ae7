//! A request on an established connection allocates nothing, from the packet in to the packet out.

mod common;

use common::*;
use keyferry_tcp::{ConnId, Egress, Outbound, Segment, Tcp};
use keyferry_time::Time;

struct Reply;

impl Segment for Reply {
    fn len(&self) -> usize {
        1_000
    }

    fn copy_to(&self, _: usize, to: &mut [u8]) {
        to.fill(7);
    }
}

struct Out([u8; MTU], usize);

impl Egress<Reply> for Out {
    fn room(&mut self) -> bool {
        true
    }

    fn packet(&mut self, outbound: &Outbound<'_, Reply>) {
        self.1 = outbound.len();
        outbound.write(&mut self.0[..self.1]);
    }
}

/// A request of 100 bytes in, a reply out; answers whose it was.
fn request(tcp: &mut Tcp<Reply>, now: Time, out: &mut Out, packet: &mut [u8]) -> Option<ConnId> {
    tcp.ingest(now, packet, false, out);
    let mut served = None;
    while let Some(event) = tcp.poll_event() {
        if let keyferry_tcp::Event::Readable(id) = event {
            while tcp.receive(id, |bytes| (bytes.len(), ())).is_some() {}
            served = tcp.send(id, Reply).is_ok().then_some(id);
        }
    }
    tcp.emit(now, out);
    while tcp.released().is_some() {}
    tcp.timers(now, out);
    served
}

#[test]
fn an_established_request_allocates_nothing() {
    let mut tcp = Tcp::<Reply>::new(config());
    let mut out = Out([0; MTU], 0);
    let mut now = Time::from_us(1);
    request(&mut tcp, now, &mut out, &mut syn(7_000, 1));
    let mut ack = fields(&out.0).1.wrapping_add(1);
    let mut seq = 2;
    for turn in 0..100 {
        now = Time(now.0 + 30_000_000);
        let mut asked = packet(7_000, ACK, seq, ack, &[1; 100]);
        let info = allocation_counter::measure(|| {
            assert!(request(&mut tcp, now, &mut out, &mut asked).is_some());
        });
        // The first ones may fill queues that keep their memory.
        assert!(turn < 1 || info.count_total == 0, "{} allocations in turn {turn}", info.count_total);
        (seq, ack) = (seq + 100, ack.wrapping_add(1_000));
    }
}
