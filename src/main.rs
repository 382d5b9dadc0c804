//! The `bootstrap` that Lambda starts: configuration, application and runtime loop put together.

use std::process::ExitCode;

use kus_aws_backend::responder::{Respond, Responder};
use kus_aws_backend::{App, Config, config};
use lambda_runtime::{LambdaEvent, Runtime, service_fn};
use tokio::runtime::{Builder, LocalOptions};

pub(crate) fn main() -> ExitCode {
    let Some(runtime_api) = config::runtime_api() else {
        eprintln!("kus-aws-backend is an AWS Lambda function: Lambda starts it and hands it events.");
        eprintln!("To run it on this machine: cargo run --example local");
        return ExitCode::from(2);
    };
    match application().and_then(|app| serve(app, &runtime_api)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The application, which lives as long as the process. It is not inlined, so that the stack that it takes
/// to read the configuration is used again.
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
