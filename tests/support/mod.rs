//! What the tests share.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`client`] | a client of the function, which checks each answer |
//! | [`in_process`] | the application without a process around it |
//! | [`log_line`] | a line of the log, checked against its schema |
//! | [`long_tests`] | how much the long tests do, and their random choices |
//! | [`openapi`] | the OpenAPI document, and the comparison of answers with it |
//! | [`pages`] | the pages of the documentation |
//! | [`sample`] | a sample event, and the answer to it |
//! | [`source`] | the variables and codes in the function's source |
//! | [`stream`] | the content of a streamed answer |
//! | [`table`] | the content of the table |
//! | [`template`] | the template of the deployment |

pub(crate) mod client;
pub(crate) mod in_process;
pub(crate) mod log_line;
pub(crate) mod long_tests;
pub(crate) mod openapi;
pub(crate) mod pages;
pub(crate) mod sample;
pub(crate) mod source;
pub(crate) mod stream;
pub(crate) mod table;
pub(crate) mod template;

/// The model's key as a parameter of Systems Manager.
pub(crate) const PARAMETER: &str = "arn:aws:ssm:eu-west-1:123456789012:parameter/team/openai-api-key";
