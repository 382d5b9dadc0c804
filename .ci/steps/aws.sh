# shellcheck shell=bash
# The steps that run the function behind the tools that people use for AWS. In them `port` is the port on which cargo lambda
# watch or the emulator listens.

step_cargo_lambda() {
  local port event answer
  port=$(free_port)
  start "$scratch/watch.log" "$port" with_cargo_lambda \
    cargo lambda watch --invoke-address 127.0.0.1 --invoke-port "$port" --ignore-changes
  # The first request waits until cargo lambda has built and started the function.
  answer=$(curl -fsS --max-time 600 "http://127.0.0.1:$port/lambda-url/$FUNCTION/health") || {
    cat "$scratch/watch.log"
    fail "GET /health has no answer through cargo lambda watch"
  }
  expect "the answer to GET /health" "$answer" '{"status":"ok"}'

  [ -f events/get-health.json ] || fail "events/get-health.json is missing"
  for event in events/*.json; do
    answer=$(
      with_cargo_lambda timeout 120 cargo lambda invoke "$FUNCTION" \
        --invoke-address 127.0.0.1 --invoke-port "$port" --data-file "$event"
    ) || fail "cargo lambda invoke fails with $event: $answer"
    .ci/check-answer "$event" "$answer"
  done
  end_background
}

# Follows .aws/README.md with the dynamic zip: deploys it, updates it and goes back to an earlier version.
step_deployment() {
  local port model key deployed conversation
  provide_zip dynamic
  cp "$ZIPS/dynamic.zip" lambda.zip
  build_local_stack
  start "$scratch/local.log" OPENAI_BASE_URL isolated "$local_stack" --backends-only
  model=$(sed -n "s/^export OPENAI_BASE_URL='\(.*\)'$/\1/p" "$scratch/local.log")
  start_emulator 1000

  in_emulator aws s3 mb s3://code
  in_emulator aws ssm put-parameter --name /team/openai --type SecureString --value a-key --query Version
  key=$(in_emulator aws ssm get-parameter --name /team/openai --query Parameter.ARN --output text)
  in_emulator .aws/deploy --bucket code OpenAiKeyArn="$key" OpenAiBaseUrl="$model"
  deployed=$(deployed_key)
  expect "the variable OPENAI_API_KEY of the function" "$deployed" "$key"
  conversation=$(check_turn 1 gpt-6-luna 1)
  in_emulator aws secretsmanager create-secret --name openai --secret-string a-key --query Name --output text
  in_emulator .aws/deploy --same-code OpenAiModel=another-model OpenAiKeyArn= OpenAiSecret=openai
  deployed=$(deployed_key)
  [[ $deployed == arn:aws:secretsmanager:*:secret:openai ]] || fail "OPENAI_API_KEY does not name the secret: $deployed"
  conversation=$(check_turn 2 another-model 2 "$conversation")
  in_emulator aws lambda update-alias --function-name "$FUNCTION" --name live --function-version 1 --query FunctionVersion
  conversation=$(check_turn 3 gpt-6-luna 1 "$conversation")
  in_emulator .aws/deploy --same-code FunctionUrl=NONE
  check_streamed_turn 4 another-model "$conversation"
  conversation=$(check_turn 5 another-model 3 "$conversation")
  check_refused 'Use FunctionUrl=AWS_IAM' JwtIssuer=https://tokens.example.com JwtAudience=app
  check_refused 'MonthlyBudget needs AlarmEmail' MonthlyBudget=10
  check_migration
  check_reserved_concurrency 20
  end_background
  check_small_account
}

# Deploys into an account that cannot spare the concurrency that the template reserves.
check_small_account() {
  start_emulator 10
  in_emulator aws s3 mb s3://code
  in_emulator .aws/deploy --bucket code OpenAiApiKey=a-key
  check_reserved_concurrency -1
  end_background
}

# Starts an emulator of an account in which $1 functions can run at the same time.
start_emulator() {
  port=$(free_port)
  start "$scratch/emulator.log" "$port" \
    in_emulator env BIND_HOST=127.0.0.1 GATEWAY_PORT="$port" LAMBDA_ACCOUNT_CONCURRENCY="$1" ministack
}

# Runs a command whose AWS clients talk to the emulator and never to an account that this machine knows.
in_emulator() {
  env -u AWS_PROFILE -u AWS_SESSION_TOKEN -u AWS_CA_BUNDLE PATH="$PYTHON_TOOLS/aws/bin:$PATH" TMPDIR="$scratch" \
    AWS_ENDPOINT_URL="http://127.0.0.1:$port" AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null \
    AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1 \
    AWS_PAGER='' NO_PROXY=127.0.0.1 no_proxy=127.0.0.1 "$@"
}

describe_stack() {
  in_emulator aws cloudformation describe-stacks --stack-name "$FUNCTION" --output text --query "Stacks[0].$1"
}

stack_output() {
  describe_stack "Outputs[?OutputKey=='$1'].OutputValue"
}

live_version() {
  in_emulator aws lambda get-alias --function-name "$FUNCTION" --name live --query FunctionVersion --output text
}

# What the function gets in place of the key: a reference to the parameter or the secret that holds it.
deployed_key() {
  in_emulator aws lambda get-function-configuration --function-name "$FUNCTION" --output text \
    --query Environment.Variables.OPENAI_API_KEY
}

# The emulator does not reserve anything for a stack, so this looks at the stack's parameter.
check_reserved_concurrency() {
  local reserved
  reserved=$(describe_stack "Parameters[?ParameterKey=='ReservedConcurrency'].ParameterValue")
  expect "the concurrency that the stack reserves" "$reserved" "$1"
}

# Sends a chat to the deployed API. The answer must be turn $1, by the model $2, and the live version must be $3. The turn
# continues the conversation $4, or begins one. Prints the conversation's id.
check_turn() {
  local turn=$1 model=$2 version=$3 conversation=${4:-null} live url answer
  live=$(live_version)
  expect "the live version" "$live" "$version"
  url=$(stack_output ApiUrl)
  answer=$(chat "$url" "{\"message\":\"Hello\",\"conversation_id\":$conversation}")
  .ci/check-turn json "$turn" "$model" "$conversation" "$answer"
}

# Sends a chat to the deployed Function URL. The answer must be the stream of turn $1, by the model $2, in the conversation
# $3. The emulator passes a stream on in one piece, so this cannot see when the parts arrive.
check_streamed_turn() {
  local turn=$1 model=$2 conversation=$3 url answer
  url=$(stack_output FunctionUrl)
  answer=$(chat "$url" "{\"message\":\"Hello\",\"conversation_id\":$conversation,\"stream\":true}")
  .ci/check-turn stream "$turn" "$model" "$conversation" "$answer" >/dev/null
}

# Sends the chat $2 to the deployed URL $1. The emulator serves all URLs at one address, and knows them by the host's name.
chat() {
  local host=${1#*://}
  curl -fsS --max-time 60 --noproxy '*' -H "host: ${host%/}" "http://127.0.0.1:$port/api/v1/chat" \
    -H 'content-type: application/json' -d "$2"
}

# The template must refuse the other arguments as parameters, and give the reason $1.
check_refused() {
  local reason=$1
  shift
  if in_emulator .aws/deploy --same-code "$@" 2>"$scratch/refused.log"; then
    fail "the template accepts these parameters, but should not: $*"
  fi
  grep -qF "$reason" "$scratch/refused.log" || {
    cat "$scratch/refused.log"
    fail "the template refuses these parameters, but for another reason: $*"
  }
}

# Moves the conversations of earlier versions to their owners.
check_migration() {
  local table
  table=$(stack_output TableName)
  in_emulator .ci/check-migration "$table"
}
