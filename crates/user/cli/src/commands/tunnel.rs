//! `lambda tunnel`: standard input and output joined to a port of an instance.

use tokio::io::{AsyncWriteExt as _, copy, stdin, stdout};

use crate::args::Tunnel;
use crate::commands::customer;
use crate::exit::Failure;

/// Runs until the far end closes. The end of our input is passed on, and output still flows.
pub(crate) async fn run(args: &Tunnel) -> Result<(), Failure> {
    let customer = customer()?;
    let known = customer.find(&args.name.instance).await?;
    let stream = lambda_sdk::tunnel::open(&customer.client, known.instance.id, args.port).await?;
    let (mut from, mut to) = tokio::io::split(stream);
    let send = async {
        copy(&mut stdin(), &mut to).await?;
        to.shutdown().await
    };
    let receive = async {
        let mut out = stdout();
        copy(&mut from, &mut out).await?;
        out.flush().await
    };
    tokio::select! {
        received = receive => received.map_err(Failure::other),
        // Only a failed send ends the tunnel; a finished one waits for the far end.
        Err(error) = send => Err(Failure::other(error)),
    }
}
