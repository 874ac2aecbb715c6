// What the scripts share: a request is one JSON document on standard input, the answer one on standard output. Whatever a client
// complains of on the console, and every promise that nobody looked after, is a failure: it goes to standard error, and the exit code is 1.

const complaints = []
for (const level of ['warn', 'error']) {
  console[level] = (...values) => complaints.push(values.map(describe).join(' '))
}
process.on('unhandledRejection', error => fail(error))

function describe(value) {
  return value instanceof Error ? (value.stack ?? String(value)) : typeof value === 'string' ? value : JSON.stringify(value)
}

function fail(error) {
  process.stderr.write([...complaints, describe(error)].join('\n') + '\n')
  process.exit(1)
}

// run answers the request with what the script gives. Complaints that the script expects are patterns in expected.
export async function run(script, expected = []) {
  try {
    let input = ''
    for await (const chunk of process.stdin) input += chunk
    const answer = await script(JSON.parse(input))
    const unexpected = complaints.filter(text => !expected.some(pattern => pattern.test(text)))
    if (unexpected.length > 0) fail(new Error('the client complained'))
    // no client's timer or kept connection may hold the process
    process.stdout.write(JSON.stringify(answer) + '\n', () => process.exit(0))
  } catch (error) {
    fail(error)
  }
}

// refusal makes a call that must fail, and gives the error as plain values.
export async function refusal(call) {
  try {
    await call()
  } catch (error) {
    return { name: error.name, code: error.code, params: error.params, message: error.message }
  }
  throw new Error('was not refused: ' + call)
}

// within gives what a promise gives, or fails with what was waited for.
export async function within(seconds, what, promise) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${seconds} s in vain for ${what}`)), seconds * 1000)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
