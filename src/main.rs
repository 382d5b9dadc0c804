//! The `bootstrap` that Lambda starts: reads the configuration, and runs the application in the runtime's loop.

use std::net::IpAddr;
use std::process::ExitCode;

use http::uri::Authority;
use kus_aws_backend::{App, Config, Respond, Responder, config};
use lambda_runtime::{LambdaEvent, Runtime, service_fn};
use tokio::runtime::{Builder, LocalOptions};

pub(crate) fn main() -> ExitCode {
    let Some(runtime_api) = config::runtime_api() else {
        eprintln!("kus-aws-backend is an AWS Lambda function: Lambda starts it and sends it events.");
        eprintln!("To run it on this machine: cargo run --example local");
        return ExitCode::from(2);
    };
    if cfg!(target_feature = "crt-static") && !has_ip_address(&runtime_api) {
        eprintln!(
            "AWS_LAMBDA_RUNTIME_API is {runtime_api:?}: a statically linked program needs an IP address and a port \
             there, as in 127.0.0.1:9001. For a host's name, build with ./build.sh --dynamic."
        );
        return ExitCode::FAILURE;
    }
    match application().and_then(|app| serve(app, &runtime_api)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the address of the Runtime API is an IP address. The client in `lambda_runtime` resolves a host name with
/// the C library's resolver, which `./build.sh` leaves out of a statically linked program.
fn has_ip_address(runtime_api: &str) -> bool {
    let authority = runtime_api.strip_prefix("http://").unwrap_or(runtime_api).split('/').next().unwrap_or_default();
    let host = authority.parse::<Authority>().map(|authority| authority.host().to_owned()).unwrap_or_default();
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// The application, which lives as long as the process. It is not inlined, so that the stack used for reading the
/// configuration can be reused.
#[inline(never)]
fn application() -> Result<&'static App, lambda_runtime::Error> {
    Ok(Box::leak(Box::new(App::new(Config::from_env()?))))
}

fn serve(app: &'static App, runtime_api: &str) -> Result<(), lambda_runtime::Error> {
    let handler = service_fn(async |LambdaEvent { payload, context }| {
        app.handle(payload, &context, None).await.map_err(lambda_runtime::Error::from)
    });
    let responder = if app.streams_responses() { Some(Responder::new(app, runtime_api)?) } else { None };
    // A local runtime leaves the multi-threaded scheduler, and libm with it, out of the binary.
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(Runtime::new(handler).layer(Respond(responder)).run())
}
