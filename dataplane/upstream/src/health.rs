//! What goes on beside requests: servers are asked how they are, and connections nobody uses are ended.
//!
//! On the app thread's runtime, for as long as the thread runs or until the upstream is no more.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::{sleep, sleep_until, timeout};

use crate::connect::connect;
use crate::options::Health;
use crate::pipe::whole;
use crate::pool::Pool;
use crate::tally::Count;

/// Bytes of an answer that are read; what is longer is as good.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Starts what goes on beside the requests of an upstream.
pub(crate) fn start(pool: &Arc<Pool>) {
    let mut beside = vec![tokio::spawn(sweep(Arc::clone(pool))).abort_handle()];
    if let Some(health) = &pool.options.health {
        for server in 0..pool.options.servers.len() {
            beside.push(tokio::spawn(check(Arc::clone(pool), server, health.clone())).abort_handle());
        }
    }
    pool.goes_along(beside);
}

/// Ends connections that were kept for long enough.
async fn sweep(pool: Arc<Pool>) {
    // Not one by one, where many were put aside at once.
    const TOGETHER: Duration = Duration::from_millis(100);
    loop {
        match pool.sweep() {
            Some(next) => sleep_until(next + TOGETHER).await,
            None => pool.kept.notified().await,
        }
    }
}

/// Asks one server how it is, again and again.
async fn check(pool: Arc<Pool>, server: usize, health: Health) {
    let (mut good, mut bad) = (0, 0);
    loop {
        let is_well = timeout(health.timeout, ask(&pool, server, &health)).await == Ok(Some(true));
        (good, bad) = if is_well { (good + 1, 0) } else { (0, bad + 1) };
        if !is_well {
            pool.tally.add(Count::ChecksFailed);
        }
        if bad >= health.fall {
            pool.found(server, true);
        } else if good >= health.rise {
            pool.found(server, false);
        }
        sleep(health.interval).await;
    }
}

/// Whether it answers, and well; `None`: it does not.
async fn ask(pool: &Pool, server: usize, health: &Health) -> Option<bool> {
    let mut sender = connect(&pool.options, &pool.options.servers[server], None, ()).await.ok()?;
    let host = health.host.as_ref().unwrap_or(&pool.names[server]);
    let request = http::Request::get(&health.path).header(HOST, host).header(CONNECTION, "close");
    let request = request.body(whole(Bytes::new())).ok()?;
    let response = sender.send_request(request).await.ok()?;
    let is_well = (200..400).contains(&response.status().as_u16());
    // To its end: to leave before is what servers write into their logs.
    match Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await {
        Err(error) if !error.is::<LengthLimitError>() => None,
        _ => Some(is_well),
    }
}
