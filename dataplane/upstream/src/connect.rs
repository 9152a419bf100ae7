//! A new connection to an origin.
//!
//! In: a server, and whose connection it will be. Out: a sender of requests; hyper's task lives on the thread's runtime until the
//! connection ends.

use std::io;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use keyferry_http::Ends;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::options::{Address, HEAD_BYTES_MAX, Options, READ_BYTES_MAX};
use crate::pool::Sender;
use crate::proxy_protocol;

/// Opens a connection to the server at `address`; `held` is dropped when it has ended. `ends` are the client's, where servers
/// are told.
pub(crate) async fn connect<H: Send + 'static>(
    options: &Options,
    address: &Address,
    ends: Option<Ends>,
    held: H,
) -> io::Result<Sender> {
    let header = options.proxy_protocol.then(|| proxy_protocol::header(ends));
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            start(stream, header, held).await
        }
        Address::Unix(path) => start(UnixStream::connect(path).await?, header, held).await,
    }
}

async fn start<S, H>(mut stream: S, header: Option<Vec<u8>>, held: H) -> io::Result<Sender>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Send + 'static,
{
    if let Some(header) = header {
        stream.write_all(&header).await?;
    }
    let mut builder = http1::Builder::new();
    builder.max_buf_size(READ_BYTES_MAX).max_header_size(HEAD_BYTES_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        // Whose request it was is told what went wrong.
        let _ = connection.with_upgrades().await;
        drop(held);
    });
    Ok(sender)
}
