#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kus_aws_backend::fuzz::reference(input));
