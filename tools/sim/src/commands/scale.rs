//! `scale`: what joining nodes takes of each, by the size of the cluster: queue pairs, registered memory, load words.
//!
//! In: workers of a node, helpers it chooses. Out: a table, all-to-all beside it. Sizes are the product's defaults; a queue
//! pair joins workers of the same number at a node and at a helper it chose, and serves both ways.

use keyferry_decide::word_interval;

use crate::peers;

/// Of `[fabric]`: reply slots and staging slots of a queue pair, bytes of each; receives, bytes of each.
const SLOTS: usize = 256;
const SLOT_BYTES: usize = 16_448;
const RECEIVES: usize = 512;
const MESSAGE_BYTES: usize = 8_192;

/// A worker's queue pairs at most.
const PEERS_MAX: usize = 128;

/// A load word on Ethernet, with the headers of RoCE v2 (14 + 20 + 8 + 12 + 16 + 4 + 4), preamble and gap.
const WORD_WIRE_BYTES: f64 = 64.0 + 78.0 + 20.0;

/// Which sizes.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Worker cores of a node
    #[arg(long, default_value_t = 16)]
    pub workers: usize,
    /// Helpers a node chooses at most
    #[arg(long, default_value_t = 32)]
    pub helpers: usize,
    /// Sizes of the cluster
    #[arg(long, value_delimiter = ',', default_value = "16,32,64,128,256,512,1024,4096,10000")]
    pub nodes: Vec<usize>,
}

/// Peers of a node: those it chose and those that chose it.
struct Joined {
    mean: f64,
    most: usize,
}

fn joined(nodes: usize, helpers: usize) -> Joined {
    let names = peers::names(nodes);
    let chosen: Vec<Vec<usize>> = (0..nodes).map(|own| peers::helpers(own, &names, helpers)).collect();
    let mut counts: Vec<usize> = chosen.iter().map(Vec::len).collect();
    for (own, helpers) in chosen.iter().enumerate() {
        for helper in helpers.iter().filter(|helper| chosen[**helper].binary_search(&own).is_err()) {
            counts[*helper] += 1;
        }
    }
    Joined {
        mean: counts.iter().sum::<usize>() as f64 / nodes as f64,
        most: counts.iter().copied().max().unwrap_or_default(),
    }
}

/// MiB registered for a queue pair.
fn registered_mib() -> f64 {
    (2 * SLOTS * SLOT_BYTES + RECEIVES * MESSAGE_BYTES + 2 * 64) as f64 / f64::from(1 << 20)
}

/// Prints the table.
///
/// # Errors
/// None; commands are alike.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (workers, helpers) = (arguments.workers, arguments.helpers);
    println!(
        "{workers} workers a node, at most {helpers} helpers chosen; {:.1} MiB registered a queue pair\n\n\
         | nodes | peers, mean (most) | queue pairs a node, mean (most) | registered a node | load words written a second | \
         on the wire, each way | all to all: queue pairs | registered | words a second |\n\
         |---|---|---|---|---|---|---|---|---|",
        registered_mib()
    );
    for nodes in &arguments.nodes {
        println!("{}", row(*nodes, workers, helpers));
    }
    println!(
        "\nA worker has room for {PEERS_MAX} queue pairs: all to all ends at {} nodes, {helpers} helpers do not.",
        PEERS_MAX + 1
    );
    Ok(())
}

fn row(nodes: usize, workers: usize, helpers: usize) -> String {
    let Joined { mean, most } = joined(nodes, helpers);
    let pairs = mean * workers as f64;
    let gib = |pairs: f64| pairs * registered_mib() / 1024.0;
    let all = ((nodes - 1) * workers) as f64;
    // Each worker writes to each of its peers, as often as the product does with so many.
    let words = |peers: f64| peers * workers as f64 / word_interval(peers.round() as usize).as_secs_f64();
    let (words, words_of_all) = (words(mean), words((nodes - 1) as f64));
    let refused = if nodes - 1 > PEERS_MAX { " (refused)" } else { "" };
    format!(
        "| {nodes} | {mean:.1} ({most}) | {pairs:.0} ({}) | {:.1} GiB | {:.2} M | {:.2} Gbit/s | {all:.0}{refused} | {:.1} GiB | {:.2} M |",
        most * workers,
        gib(pairs),
        words / 1e6,
        words * WORD_WIRE_BYTES * 8.0 / 1e9,
        gib(all),
        words_of_all / 1e6,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_level_off_where_helpers_are_fewer_than_nodes() {
        let (few, many) = (joined(16, 32), joined(300, 32));
        assert_eq!((few.mean, few.most), (15.0, 15));
        // Of 299 others 32 are chosen, and 32 choose: of these a ninth both.
        assert!((58.0..62.0).contains(&many.mean), "{}", many.mean);
        assert!(many.most <= PEERS_MAX);
    }
}
