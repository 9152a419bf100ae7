//! What one request costs TCP: one segment of 1,460 bytes in, one out, with the acknowledgements riding on both,
//! the connections served in turn. The peer is a precomputed header, so that only this crate is measured.
//! `cargo bench -p keyferry-tcp` prints `bench tcp: ns_1=... ns_1k=... ns_10k=... ns_100k=...`.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use keyferry_tcp::{Config, ConnId, Egress, Event, Outbound, RxChecksum, Segment, Stretch, Tcp};
use keyferry_time::Time;

const MSS: usize = 1460;
const HEADERS: usize = 40;
const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Small buffers, so that 100,000 connections fit a small machine; the working set is what is touched.
const BUFFER: usize = 4096;
const REQUESTS: usize = 1_000_000;

/// A reply of one segment, without memory of its own.
struct Reply;

impl Segment for Reply {
    fn len(&self) -> usize {
        MSS
    }

    fn copy_to(&self, _: usize, to: &mut [u8]) {
        to.fill(0x5a);
    }
}

/// Keeps the last packet sent.
struct Last {
    bytes: Vec<u8>,
    packets: u64,
}

impl<S: Segment> Egress<S> for Last {
    fn room(&mut self) -> bool {
        true
    }

    fn packet(&mut self, outbound: &Outbound<'_, S>) {
        self.packets += 1;
        self.bytes.resize(outbound.len(), 0);
        outbound.write(&mut self.bytes);
    }
}

/// A client reduced to its sequence numbers.
#[derive(Clone, Copy)]
struct Client {
    address: u32,
    port: u16,
    seq: u32,
    ack: u32,
}

impl Client {
    fn write(&self, packet: &mut Vec<u8>, flags: u8, payload: usize) {
        packet.resize(HEADERS + payload, 0x41);
        packet[..HEADERS].fill(0);
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&((HEADERS + payload) as u16).to_be_bytes());
        packet[6..10].copy_from_slice(&[0x40, 0, 64, 6]);
        packet[12..16].copy_from_slice(&self.address.to_be_bytes());
        packet[16..20].copy_from_slice(&LOCAL.octets());
        packet[20..22].copy_from_slice(&self.port.to_be_bytes());
        packet[22..24].copy_from_slice(&443u16.to_be_bytes());
        packet[24..28].copy_from_slice(&self.seq.to_be_bytes());
        packet[28..32].copy_from_slice(&self.ack.to_be_bytes());
        packet[32..36].copy_from_slice(&[0x50, flags, 0xff, 0xff]);
    }
}

fn main() {
    let figures: Vec<String> = [(1, "1"), (1_000, "1k"), (10_000, "10k"), (100_000, "100k")]
        .iter()
        .map(|(connections, name)| format!("ns_{name}={:.0}", measure(*connections)))
        .collect();
    println!("bench tcp: {}", figures.join(" "));
}

fn measure(connections: u32) -> f64 {
    let mut tcp = Tcp::<Reply>::new(Config {
        addresses: vec![LOCAL.into()],
        ports: vec![443],
        mtu: 1500,
        connections,
        half_open: connections,
        half_open_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(60),
        receive_bytes: BUFFER,
        send_bytes: BUFFER,
        rx_checksum: RxChecksum::Trust,
        tx_checksum_offload: true,
        stretch: Stretch::SEGMENT,
        seed: 7,
    });
    let mut out = Last { bytes: Vec::with_capacity(2048), packets: 0 };
    let mut packet = Vec::with_capacity(2048);
    let mut now = Time::from_us(1);
    let mut clients: Vec<Client> =
        (0..connections).map(|at| connect(&mut tcp, now, &mut out, &mut packet, at)).collect();

    let mut at = 0;
    let mut turn = |tcp: &mut Tcp<Reply>, requests: usize| {
        for _ in 0..requests {
            now += Duration::from_micros(1);
            let client = &mut clients[at];
            client.write(&mut packet, 0x18, MSS);
            client.seq = client.seq.wrapping_add(MSS as u32);
            // The next request acknowledges the reply to this one.
            client.ack = client.ack.wrapping_add(MSS as u32);
            tcp.ingest(now, &mut packet, true, &mut out);
            while let Some(event) = tcp.poll_event() {
                let Event::Readable(id) = event else { continue };
                serve(tcp, id);
            }
            tcp.emit(now, &mut out);
            while tcp.released().is_some() {}
            if now.0.is_multiple_of(64_000) {
                tcp.timers(now, &mut out);
            }
            at = (at + 1) % clients.len();
        }
    };
    turn(&mut tcp, connections as usize);
    let start = Instant::now();
    turn(&mut tcp, REQUESTS);
    let elapsed = start.elapsed();
    assert_eq!(
        out.packets,
        2 * u64::from(connections) + REQUESTS as u64,
        "SYN-ACKs and one packet a request"
    );
    elapsed.as_nanos() as f64 / REQUESTS as f64
}

fn serve(tcp: &mut Tcp<Reply>, id: ConnId) {
    while tcp.receive(id, |bytes| (bytes.len(), ())).is_some() {}
    assert!(tcp.send(id, Reply).is_ok());
}

fn connect(tcp: &mut Tcp<Reply>, now: Time, out: &mut Last, packet: &mut Vec<u8>, at: u32) -> Client {
    let mut client =
        Client { address: 0x0a00_0000 + at / 50_000, port: 1_024 + (at % 50_000) as u16, seq: at, ack: 0 };
    // With the MSS option: without it the reply would go out in segments of 536 bytes.
    client.write(packet, 0x02, 4);
    packet[32] = 0x60;
    packet[40..44].copy_from_slice(&[2, 4, (MSS >> 8) as u8, MSS as u8]);
    tcp.ingest(now, packet, true, out);
    tcp.emit(now, out);
    client.seq = client.seq.wrapping_add(1);
    let isn = [out.bytes[24], out.bytes[25], out.bytes[26], out.bytes[27]];
    client.ack = u32::from_be_bytes(isn).wrapping_add(1);
    client.write(packet, 0x10, 0);
    tcp.ingest(now, packet, true, out);
    tcp.emit(now, out);
    while tcp.poll_event().is_some() {}
    client
}
