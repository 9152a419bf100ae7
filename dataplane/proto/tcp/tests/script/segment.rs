//! One segment of a script: as it is written there, as it stands on the wire.
//!
//! In: words, or a packet. Out: the other. Numbers are relative to the first of each side: a SYN has 0.

use std::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{Ipv4Packet, TcpPacket};

use super::number;

pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub const PORT: u16 = 443;
pub const CLIENT_PORT: u16 = 40_000;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const ECE: u8 = 64;
pub const CWR: u8 = 128;

const FLAGS: [(char, u8); 7] =
    [('F', FIN), ('S', SYN), ('R', RST), ('P', PSH), ('A', ACK), ('E', ECE), ('C', CWR)];

/// A segment as a script says it, or as it was found; what a script leaves out is not looked at.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub flags: u8,
    pub seq: u32,
    pub len: Option<u32>,
    pub ack: Option<u32>,
    pub window: Option<u16>,
    pub mss: Option<u16>,
    pub scale: Option<u8>,
    pub sack_permitted: Option<bool>,
    /// Timestamps: the value, the echo; `Some((None, None))` in a script: there is one, whatever it says.
    pub stamp: Option<u32>,
    pub echo: Option<u32>,
    pub has_stamps: Option<bool>,
    pub sack: Option<Vec<(u32, u32)>>,
    /// The field of the IP header (RFC 3168 section 5).
    pub ecn: Option<u8>,
    /// A name for this segment's timestamp; or the name of the one that is echoed.
    pub named: Option<String>,
    pub echoes: Option<String>,
    /// Bytes of an option of no kind, as they stand.
    pub raw: Option<Vec<u8>>,
}

fn range(word: &str) -> Result<(u32, u32), String> {
    let (start, end) = word.split_once(':').ok_or("a range of numbers")?;
    Ok((number(start)? as u32, number(end)? as u32))
}

/// Reads a segment: flags, number or range, then words.
pub fn parse(words: &[&str]) -> Result<Said, String> {
    let [flags, seq, rest @ ..] = words else { return Err("flags and a number".into()) };
    let mut said = Said::default();
    for letter in flags.chars() {
        let flag = FLAGS.iter().find(|flag| flag.0 == letter).ok_or("a letter that is no flag")?;
        said.flags |= flag.1;
    }
    match seq.split_once(':') {
        Some(_) => {
            let (start, end) = range(seq)?;
            (said.seq, said.len) = (start, Some(end - start));
        }
        None => said.seq = number(seq)? as u32,
    }
    let mut rest = rest.iter().copied();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{word} of what"));
        match word {
            "ack" => said.ack = Some(number(value()?)? as u32),
            "win" => said.window = Some(number(value()?)? as u16),
            "mss" => said.mss = Some(number(value()?)? as u16),
            "wscale" => said.scale = Some(number(value()?)? as u8),
            "sackok" => said.sack_permitted = Some(true),
            "nosackok" => said.sack_permitted = Some(false),
            "ts" => (said.stamp, said.has_stamps) = (Some(number(value()?)? as u32), Some(true)),
            "ecr" => said.echo = Some(number(value()?)? as u32),
            "stamped" => said.has_stamps = Some(true),
            "nots" => said.has_stamps = Some(false),
            "sack" => said.sack = Some(value()?.split(',').map(range).collect::<Result<_, _>>()?),
            "nosack" => said.sack = Some(Vec::new()),
            "ect" => said.ecn = Some(2),
            "ce" => said.ecn = Some(3),
            "notect" => said.ecn = Some(0),
            "as" => said.named = Some(value()?.to_owned()),
            "echoes" => said.echoes = Some(value()?.to_owned()),
            "raw" => {
                let bytes = value()?.split(',').map(|byte| u8::from_str_radix(byte, 16));
                said.raw = Some(bytes.collect::<Result<_, _>>().map_err(|_| "bytes in hexadecimal")?);
            }
            other => return Err(format!("what is {other:?}")),
        }
    }
    Ok(said)
}

/// Byte `at` of a side's stream.
pub fn byte(at: u32) -> u8 {
    (at ^ (at >> 8)).wrapping_mul(167) as u8
}

fn options(said: &Said) -> Vec<u8> {
    let mut options = Vec::new();
    if let Some(mss) = said.mss {
        options.extend([2, 4, (mss >> 8) as u8, mss as u8]);
    }
    if let Some(scale) = said.scale {
        options.extend([1, 3, 3, scale]);
    }
    if said.sack_permitted == Some(true) {
        options.extend([1, 1, 4, 2]);
    }
    if said.has_stamps == Some(true) {
        options.extend([1, 1, 8, 10]);
        options.extend(said.stamp.unwrap_or_default().to_be_bytes());
        options.extend(said.echo.unwrap_or_default().to_be_bytes());
    }
    let blocks = said.sack.as_deref().unwrap_or_default();
    if !blocks.is_empty() {
        options.extend([1, 1, 5, 2 + 8 * blocks.len() as u8]);
        for (start, end) in blocks {
            options.extend(start.to_be_bytes());
            options.extend(end.to_be_bytes());
        }
    }
    options.extend(said.raw.iter().flatten());
    while !options.len().is_multiple_of(4) {
        options.push(0);
    }
    options
}

/// Writes a segment of the peer; `first` numbers are what the script's are relative to, for the peer and for us.
pub fn write(said: &Said, port: u16, theirs: u32, ours: u32) -> Vec<u8> {
    let mut said = said.clone();
    for (start, end) in said.sack.iter_mut().flatten() {
        (*start, *end) = (start.wrapping_add(ours), end.wrapping_add(ours));
    }
    let options = options(&said);
    let header = 20 + options.len();
    let len = said.len.unwrap_or_default();
    // The range of a segment with a flag that takes a number counts it not.
    let mut packet = vec![0; 20 + header + len as usize];
    let total = packet.len() as u16;
    packet[..12].copy_from_slice(&[0x45, said.ecn.unwrap_or(0), 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[12..16].copy_from_slice(&CLIENT.octets());
    packet[16..20].copy_from_slice(&SERVER.octets());
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet[22..24].copy_from_slice(&PORT.to_be_bytes());
    packet[24..28].copy_from_slice(&theirs.wrapping_add(said.seq).to_be_bytes());
    let ack = if said.flags & ACK != 0 { ours.wrapping_add(said.ack.unwrap_or_default()) } else { 0 };
    packet[28..32].copy_from_slice(&ack.to_be_bytes());
    packet[32..34].copy_from_slice(&[((header / 4) as u8) << 4, said.flags]);
    packet[34..36].copy_from_slice(&said.window.unwrap_or(u16::MAX).to_be_bytes());
    packet[40..40 + options.len()].copy_from_slice(&options);
    for (place, to) in packet[20 + header..].iter_mut().enumerate() {
        *to = byte(said.seq + place as u32);
    }
    let mut ip = Ipv4Packet::new_unchecked(&mut packet[..]);
    ip.fill_checksum();
    TcpPacket::new_unchecked(ip.payload_mut()).fill_checksum(&CLIENT.into(), &SERVER.into());
    packet
}

/// Reads a packet of ours.
pub fn read(packet: &[u8], theirs: u32, ours: u32) -> Result<(Said, u16), String> {
    let ip = Ipv4Packet::new_checked(packet).map_err(|_| "no IPv4 packet")?;
    let tcp = TcpPacket::new_checked(ip.payload()).map_err(|_| "no TCP segment")?;
    let ends = (IpAddr::V4(SERVER).into(), IpAddr::V4(CLIENT).into());
    if !ip.verify_checksum() || !tcp.verify_checksum(&ends.0, &ends.1) {
        return Err("a wrong checksum".into());
    }
    let seq = (tcp.seq_number().0 as u32).wrapping_sub(ours);
    let mut said = Said {
        flags: packet[33],
        seq,
        len: Some(tcp.payload().len() as u32),
        ack: tcp.ack().then(|| (tcp.ack_number().0 as u32).wrapping_sub(theirs)),
        window: Some(tcp.window_len()),
        sack_permitted: Some(false),
        has_stamps: Some(false),
        sack: Some(Vec::new()),
        ecn: Some(ip.ecn()),
        ..Said::default()
    };
    read_options(tcp.options(), theirs, &mut said);
    if let Some(place) =
        tcp.payload().iter().enumerate().position(|(at, found)| *found != byte(seq + at as u32))
    {
        return Err(format!("byte {place} of it is not the stream's"));
    }
    Ok((said, tcp.dst_port()))
}

fn read_options(mut options: &[u8], theirs: u32, said: &mut Said) {
    let word = |bytes: &[u8]| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    while let [kind, rest @ ..] = options {
        if *kind < 2 {
            options = rest;
            continue;
        }
        let len = usize::from(rest[0]);
        let content = &options[2..len];
        match kind {
            2 => said.mss = Some(u16::from_be_bytes([content[0], content[1]])),
            3 => said.scale = Some(content[0]),
            4 => said.sack_permitted = Some(true),
            5 => {
                let block =
                    |block: &[u8]| (word(block).wrapping_sub(theirs), word(&block[4..]).wrapping_sub(theirs));
                said.sack = Some(content.chunks_exact(8).map(block).collect());
            }
            8 => {
                (said.stamp, said.echo) = (Some(word(content)), Some(word(&content[4..])));
                said.has_stamps = Some(true);
            }
            _ => {}
        }
        options = &options[len..];
    }
}

/// Whether what was found is what was said.
pub fn matches(said: &Said, found: &Said) -> Result<(), String> {
    fn same<T: PartialEq + std::fmt::Debug>(
        name: &str,
        said: &Option<T>,
        found: &Option<T>,
    ) -> Result<(), String> {
        if said.is_some() && said != found { Err(format!("{name} {said:?}, not {found:?}")) } else { Ok(()) }
    }
    // Where a push stands is ours to choose.
    if said.flags & !PSH != found.flags & !PSH {
        return Err(format!("flags {:#x}, not {:#x}", said.flags & !PSH, found.flags & !PSH));
    }
    same("number", &Some(said.seq), &Some(found.seq))?;
    same("bytes", &Some(said.len.unwrap_or(0)), &found.len)?;
    same("ack", &said.ack, &found.ack)?;
    same("window", &said.window, &found.window)?;
    same("mss", &said.mss, &found.mss)?;
    same("window scale", &said.scale, &found.scale)?;
    same("sack permitted", &said.sack_permitted, &found.sack_permitted)?;
    same("timestamps", &said.has_stamps, &found.has_stamps)?;
    same("timestamp", &said.stamp, &found.stamp)?;
    same("echo", &said.echo, &found.echo)?;
    same("sack", &said.sack, &found.sack)?;
    same("ecn", &said.ecn, &found.ecn)
}
