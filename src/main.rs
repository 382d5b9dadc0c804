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
    match Config::from_env().map_err(Into::into).and_then(|config| serve(config, &runtime_api)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config, runtime_api: &str) -> Result<(), lambda_runtime::Error> {
    let streams = config.response_stream;
    // It lives as long as the process.
    let app: &'static App = Box::leak(Box::new(App::new(config)));
    let handler = service_fn(async |LambdaEvent { payload, context }| {
        app.handle(payload, &context, None).await.map_err(lambda_runtime::Error::from)
    });
    let responder = if streams { Some(Responder::new(app, runtime_api)?) } else { None };
    // A local runtime leaves the multi-threaded scheduler, and libm with it, out of the binary.
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(Runtime::new(handler).layer(Respond(responder)).run())
}
