#!/usr/bin/env node
// Writes keeper/tests/vectors/tee.json: node evidence signed with node:crypto (OpenSSL). The key in it is public and
// for tests only. Signatures are randomised, so the file changes when written anew.
//   script/vectors/tee.mjs            writes the file, keeping its key
//   script/vectors/tee.mjs --check    verifies what stands in it
import { execFileSync } from 'node:child_process'
import crypto from 'node:crypto'
import fs from 'node:fs'
import { fileURLToPath } from 'node:url'
import { keccak256, getBytes } from 'ethers'

const target = fileURLToPath(new URL('../../keeper/tests/vectors/tee.json', import.meta.url))
const pss = (salt) => ({ padding: crypto.constants.RSA_PKCS1_PSS_PADDING, saltLength: salt })
const keccak = (bytes) => Buffer.from(getBytes(keccak256(bytes)))
const hex = (bytes) => '0x' + Buffer.from(bytes).toString('hex')
const python = (value) => // the one place where JSON text must be Python's
  execFileSync('python3', ['-c', 'import json,sys; print(json.dumps(json.load(sys.stdin), sort_keys=True), end="")'], {
    input: JSON.stringify(value), encoding: 'utf8',
  })

const call = { id: 'call_1', type: 'function', function: { name: 'get_weather', arguments: '{"city": "Zürich", "days": 3}' } }
const cases = [
  {
    name: 'text', endpoint: '/v1/chat/completions', variant: 'B', timestamp: 1795200000,
    request: { model: 'canned-small', temperature: 1, top_p: 0.5, messages: [{ role: 'user', content: 'What is due?', name: 'n' }] },
    digest: { model: 'canned-small', temperature: '1.0', messages: [{ role: 'user', content: 'What is due?' }] },
    choice: { finish_reason: 'stop', message: { role: 'assistant', content: 'A receipt.' } },
    output: 'A receipt.',
  },
  {
    name: 'non_ascii', endpoint: '/v1/chat/completions', variant: 'B', timestamp: 1795200001,
    request: { model: 'canned-small', max_tokens: 9, stop: ['。'], messages: [{ role: 'developer', content: 'Grüße — 日本 🚀\n\u007f' }] },
    digest: { model: 'canned-small', max_tokens: 9, stop: ['。'], temperature: '0.0', messages: [{ role: 'system', content: 'Grüße — 日本 🚀\n\u007f' }] },
    choice: { finish_reason: 'stop', message: { role: 'assistant', content: '«通り» 🚀\n' } },
    output: '«通り» 🚀\n',
  },
  {
    name: 'parts_variant_a', endpoint: '/v1/chat/completions', variant: 'A', timestamp: 1795200002,
    request: { model: 'canned-small', web_search: true, messages: [{ role: 'user', content: [{ type: 'text', text: "it's" }, { b: true, a: null }] }] },
    digest: { model: 'canned-small', temperature: '0.0', messages: [{ role: 'user', content: `[{'type': 'text', 'text': "it's"}, {'b': True, 'a': None}]` }] },
    choice: { finish_reason: 'stop', message: { role: 'assistant', content: [{ type: 'text', text: 'a' }, { type: 'text', text: 'b' }] } },
    output: 'ab',
  },
  {
    name: 'tool_calls', endpoint: '/v1/chat/completions', variant: 'B', timestamp: 1795200003,
    request: { model: 'canned-small', messages: [{ role: 'user', content: 'Weather?' }], tools: [{ type: 'function', function: { name: 'get_weather', parameters: {} } }], tool_choice: 'required' },
    digest: { model: 'canned-small', temperature: '0.0', messages: [{ role: 'user', content: 'Weather?' }], tools: [{ type: 'function', function: { name: 'get_weather', parameters: {} } }] },
    choice: { finish_reason: 'tool_calls', message: { role: 'assistant', content: 'not hashed', tool_calls: [call] } },
    output: python([call]),
  },
  {
    name: 'stream', endpoint: '/v1/chat/completions', variant: 'B', timestamp: 1795200004,
    request: { model: 'canned-small', stream: true, messages: [{ role: 'user', content: 'Go' }] },
    digest: { model: 'canned-small', temperature: '0.0', messages: [{ role: 'user', content: 'Go' }] },
    deltas: [{ role: 'assistant', content: 'Eins, ' }, { content: 'zwei, ' }, { content: null }, { content: 'drei 🚀' }],
    finish: 'stop', output: 'Eins, zwei, drei 🚀',
  },
  {
    name: 'stream_tool_calls', endpoint: '/v1/chat/completions', variant: 'B', timestamp: 1795200005,
    request: { model: 'canned-small', stream: true, messages: [{ role: 'user', content: 'Go' }] },
    digest: { model: 'canned-small', temperature: '0.0', messages: [{ role: 'user', content: 'Go' }] },
    deltas: [
      { role: 'assistant', tool_calls: [{ index: 0, id: 'call_1', type: 'function', function: { name: 'get_weather' } }] },
      { tool_calls: [{ index: 0, type: 'function', function: { arguments: '{"city":' } }] },
      { tool_calls: [{ index: 0, type: 'function', function: { arguments: '"Zürich"}' } }] },
    ],
    finish: 'tool_calls',
    output: python([{ ...call, function: { name: 'get_weather', arguments: '{"city":"Zürich"}' } }]),
  },
  {
    name: 'completions', endpoint: '/v1/completions', variant: 'B', timestamp: 1795200006,
    request: { model: 'canned-small', prompt: 'Once' },
    digest: { model: 'canned-small', prompt: 'Once', temperature: '1.0', max_tokens: 16 },
    choice: { finish_reason: 'stop', text: ' upon a time' },
    output: ' upon a time',
  },
]

function evidence(key, spki, { name, endpoint, variant, timestamp, request, digest, choice, deltas, finish, output }) {
  // JavaScript cannot write 1.0: the digest holds floats as text.
  const canonical = python(digest).replace(/"temperature": "([0-9.]+)"/, '"temperature": $1')
  const requestHash = keccak(Buffer.from(canonical))
  const outputHash = keccak(Buffer.from(output))
  const time = Buffer.alloc(32)
  time.writeBigUInt64BE(BigInt(timestamp), 24)
  const messageHash = keccak(Buffer.concat([requestHash, outputHash, time]))
  const sign = (salt) => crypto.sign('sha256', messageHash, { key, ...pss(salt) })
  const signature = sign(32)
  const nodeId = hex(keccak(spki))
  const tee = {
    tee_signature: signature.toString('base64'),
    tee_request_hash: requestHash.toString('hex'),
    tee_output_hash: outputHash.toString('hex'),
    tee_timestamp: timestamp,
    tee_id: nodeId,
  }
  const usage = { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 }
  const chunk = (delta, reason = null, more = {}) => ({ choices: [{ delta, index: 0, finish_reason: reason }], model: request.model, ...more })
  const body = choice && { id: 'x', object: 'chat.completion', model: request.model, choices: [{ index: 0, ...choice }], usage, ...tee }
  const stream = deltas && [...deltas.map((delta) => chunk(delta)), chunk({}, finish, { ...tee, usage })]
    .map((data) => `data: ${JSON.stringify(data)}\n\n`).join('') + 'data: [DONE]\n\n'
  return {
    name, endpoint, variant, request: JSON.stringify(request), canonical, requestHash: hex(requestHash), output,
    outputHash: hex(outputHash), timestamp, messageHash: hex(messageHash), signature: hex(signature), nodeId,
    response: body && JSON.stringify(body), stream,
    settlementId: hex(keccak(Buffer.concat([keccak(spki), messageHash]))),
    // Valid RSA-PSS, but not as OpenGradient signs: must be refused.
    wrongSalt: [0, 20, 222].map((salt) => hex(sign(salt))),
    wrongScheme: hex(crypto.sign('sha256', messageHash, { key, padding: crypto.constants.RSA_PKCS1_PADDING })),
    singleHash: hex(crypto.sign('sha256', Buffer.concat([requestHash, outputHash, time]), { key, ...pss(32) })),
  }
}

if (process.argv[2] === '--check') {
  const file = JSON.parse(fs.readFileSync(target, 'utf8'))
  for (const entry of file.entries) {
    const message = Buffer.from(entry.messageHash.slice(2), 'hex')
    if (!crypto.verify('sha256', message, { key: file.key.publicPem, ...pss(32) }, Buffer.from(entry.signature.slice(2), 'hex')))
      throw new Error(`${entry.name}: signature does not verify`)
  }
  console.log(`tee.json: ${file.entries.length} entries verify`)
} else {
  const old = fs.existsSync(target) ? JSON.parse(fs.readFileSync(target, 'utf8')) : undefined
  const privatePem = old?.key.privatePem ??
    crypto.generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ type: 'pkcs8', format: 'pem' })
  const publicKey = crypto.createPublicKey(privatePem)
  const spki = publicKey.export({ type: 'spki', format: 'der' })
  // Keys that must be refused or accepted by size and exponent; public halves only.
  const keys = [[1024, 65537, false], [2048, 3, false], [2056, 65537, false], [3072, 65537, true], [4096, 65537, true]].map(([modulusLength, publicExponent, accepted]) => ({
    bits: modulusLength, exponent: publicExponent, accepted,
    spki: hex(crypto.generateKeyPairSync('rsa', { modulusLength, publicExponent }).publicKey.export({ type: 'spki', format: 'der' })),
  }))
  const pem = publicKey.export({ type: 'spki', format: 'pem' })
  fs.writeFileSync(target, JSON.stringify({
    note: 'Written by script/vectors/tee.mjs. TEST ONLY: this private key is public and must never be registered anywhere.',
    key: { privatePem, publicPem: pem, spki: hex(spki), nodeId: hex(keccak(spki)) },
    keys: old?.keys ?? keys,
    entries: cases.map((item) => evidence(privatePem, spki, item)),
  }, null, 1) + '\n')
  console.log(`tee.json: ${cases.length} entries written`)
}
