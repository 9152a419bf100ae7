//! Keeps a distributor's tables of places up to date. In: that other nodes take connections. Out: tables for its worker, each
//! time made of all that is known then. Control thread; a table takes milliseconds, so a thread of the runtime's makes it.

use std::sync::Arc;

use keyferry_worker::distribute::News;

use crate::links::Nodes;

/// Makes them whenever that is due. The tables a worker lets go of are freed here: it frees no memory in its turn.
pub(crate) async fn tend(nodes: &Nodes) {
    let mut given = Vec::new();
    loop {
        nodes.changed().await;
        let plan = nodes.plan();
        let made = tokio::task::spawn_blocking(move || plan.make()).await;
        let made = Arc::new(made.expect("tables are made of whatever there is"));
        given.retain(|places| Arc::strong_count(places) > 1);
        given.push(Arc::clone(&made));
        nodes.tell(News::Places(made)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use crossbeam_queue::ArrayQueue;
    use keyferry_distribute::{NodeId, Services, State};

    use super::*;
    use crate::links::{Listed, Placed};

    #[test]
    fn tables_follow_what_nodes_do() {
        let news = Arc::new(ArrayQueue::new(16));
        let placed = |name: &str| Placed {
            name: name.to_owned(),
            address: IpAddr::from([192, 0, 2, 1]),
            weight: 1,
            services: Services::from_iter([0]),
        };
        let nodes = Nodes::new([(placed("a"), State::Up)], 2, 1, Arc::clone(&news));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let next = async || loop {
            match news.pop() {
                Some(News::Places(places)) => return places,
                Some(_) => {}
                None => tokio::task::yield_now().await,
            }
        };
        let follow = async {
            nodes.join(placed("b"), Listed::Etcd, State::Down).await;
            let one = next().await;
            assert!(one.has(NodeId(0)) && !one.has(NodeId(1)), "it has no link yet");
            nodes.leave("a").await;
            assert!(!next().await.has(NodeId(0)));
            // The last table is the worker's, and one more is kept for it.
            assert!(Arc::strong_count(&one) > 1);
            nodes.leave("b").await;
            drop(one);
            next().await;
        };
        runtime.block_on(async {
            tokio::select! {
                () = tend(&nodes) => unreachable!("it goes on for ever"),
                () = follow => {}
            }
        });
    }
}
