'use strict';

// Calls an endpoint with the vendor's clients. Each line of standard input is a call, as JSON; for each call there is
// one line of standard output, {status, body}: the HTTP status, 0 when there was no answer, and the body as the client
// gives it to its user. See driver_test.go.

const readline = require('node:readline');

const { RPCClient } = require('@alicloud/pop-core');
const OpenApi = require('@alicloud/openapi-client');
const { default: OpenApiUtil } = require('@alicloud/openapi-util');
const { RuntimeOptions } = require('@alicloud/tea-util');

const timeout = 30000; // milliseconds

// popCore signs with HMAC-SHA1. Lists and structures in params are flattened by the client.
async function popCore(call) {
  const client = new RPCClient({
    endpoint: call.endpoint,
    apiVersion: call.version,
    accessKeyId: call.accessKeyId,
    accessKeySecret: call.accessKeySecret,
    securityToken: call.securityToken,
  }, true);
  try {
    const [body, entry] = await client.request(call.action, call.params, { method: call.method, timeout });
    return { status: entry.response.statusCode, body };
  } catch (err) {
    if (!err.data) throw err;
    return { status: err.entry.response.statusCode, body: err.data };
  }
}

// openApi signs with ACS3-HMAC-SHA256, or with HMAC-SHA1 when the signature is v2. It is called as the vendor's
// generated SDKs call it.
async function openApi(call) {
  const url = new URL(call.endpoint);
  const client = new OpenApi.default(new OpenApi.Config({
    endpoint: url.host,
    protocol: url.protocol.slice(0, -1),
    accessKeyId: call.accessKeyId,
    accessKeySecret: call.accessKeySecret,
    securityToken: call.securityToken,
    signatureAlgorithm: call.signature,
  }));
  const request = call.form ? { body: call.params } : { query: OpenApiUtil.query(call.params) };
  if (call.format) request.query = { ...request.query, Format: call.format };
  try {
    const answer = await client.callApi(new OpenApi.Params({
      action: call.action,
      version: call.version,
      protocol: url.protocol.slice(0, -1).toUpperCase(),
      method: call.method,
      pathname: '/',
      authType: 'AK',
      style: 'RPC',
      reqBodyType: 'formData',
      bodyType: call.format === 'XML' ? 'string' : 'json',
    }), new OpenApi.OpenApiRequest(request), new RuntimeOptions({ readTimeout: timeout, connectTimeout: timeout }));
    return { status: answer.statusCode, body: answer.body };
  } catch (err) {
    if (!err.data || !err.data.statusCode) throw err;
    const { statusCode, ...body } = err.data;
    return { status: statusCode, body };
  }
}

const libraries = { 'pop-core': popCore, 'openapi-client': openApi };

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const call = JSON.parse(line);
    let result;
    try {
      result = await libraries[call.library](call);
    } catch (err) {
      result = { status: 0, body: String(err.stack || err) };
    }
    process.stdout.write(JSON.stringify(result) + '\n');
  }
  process.exit(0); // the clients keep connections open
}

main();
