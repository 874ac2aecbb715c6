// One session of Xen Orchestra's client library: it logs in, keeps a cache of all objects by the pool's events, calls, waits for
// tasks and meets errors. A second client makes the changes that the first one must hear of.
import { createClient } from 'xen-api'
import { refusal, run, within } from './report.mjs'

const patience = 20

// heard resolves when the watcher's cache has changed to what is wanted.
function heard(xapi, what, wanted) {
  const { objects } = xapi
  let check
  const change = new Promise(resolve => {
    check = () => wanted() && resolve()
    for (const event of ['add', 'update', 'remove']) objects.on(event, check)
    check()
  })
  return within(patience, what, change).finally(() => {
    for (const event of ['add', 'update', 'remove']) objects.removeListener(event, check)
  })
}

run(async ({ url, slave, username, password, vm: uuid }) => {
  const options = { url, auth: { user: username, password }, allowUnauthorized: true, debounce: 10 }
  const watcher = createClient(options)
  await watcher.connect()
  await within(patience, 'the first fetch of all objects', watcher.objectsFetched)
  const other = createClient({ ...options, watchEvents: false })
  await other.connect()

  // all objects, linked to each other through their references
  const types = {}
  for (const object of Object.values(watcher.objects.all)) types[object.$type] = (types[object.$type] ?? 0) + 1
  const vm = () => watcher.getObjectByUuid(uuid)
  const disks = vm().$VBDs.map(vbd => vbd.$VDI.uuid)
  const storage = vm().$VBDs[0].$VDI.$SR.name_label

  // calls; the changes arrive through the event loop
  const { $ref: ref } = vm()
  await other.call('VM.set_name_label', ref, 'žluťoučký kůň')
  await heard(watcher, 'the new name', () => vm().name_label === 'žluťoučký kůň')
  await other.setFieldEntry('VM', ref, 'other_config', 'understudy-foreign', 'here')
  await heard(watcher, 'the new key', () => vm().other_config['understudy-foreign'] === 'here')
  await other.call('VM.add_tags', ref, 'foreign')
  await heard(watcher, 'the new tag', () => vm().tags.includes('foreign'))
  const barrier = (await within(patience, 'a barrier', watcher.barrier(ref))).name_label

  // tasks
  await within(patience, 'VM.start', watcher.callAsync('VM.start', ref, false, false))
  await heard(watcher, 'the running VM', () => vm().power_state === 'Running')
  const clone = await within(patience, 'VM.snapshot', watcher.callAsync('VM.snapshot', ref, 'snapshot by task'))
  await heard(watcher, 'the snapshot', () => watcher.getObjectByRef(clone, undefined)?.snapshot_of === ref)
  const linked = vm().$snapshots.map(snapshot => snapshot.name_label)

  // objects that go
  for (const vbd of await other.getRecords('VBD', await other.getField('VM', clone, 'VBDs'))) await other.call('VDI.destroy', vbd.VDI)
  await other.call('VM.destroy', clone)
  await heard(watcher, 'the end of the snapshot', () => watcher.getObjectByRef(clone, undefined) === undefined)

  const errors = {
    call: await refusal(() => other.call('VM.start', ref, false, false)),
    task: await refusal(() => within(patience, 'a failing task', watcher.callAsync('VM.start', ref, false, false))),
    handle: await refusal(() => other.call('VM.get_name_label', 'OpaqueRef:nobody')),
    method: await refusal(() => other.call('VM.levitate', ref)),
    login: await refusal(() => createClient({ ...options, auth: { user: username, password: 'wrong' }, watchEvents: false }).connect()),
  }

  // a host that is not the coordinator sends it there
  const redirected = createClient({ ...options, url: slave, watchEvents: false })
  await redirected.connect()
  const pool = await redirected.getField('pool', redirected.pool.$ref, 'name_label')

  await heard(watcher, 'the end of all tasks', () => !Object.values(watcher.objects.all).some(object => object.$type === 'task'))
  const watchError = watcher.watchEventsError?.message ?? ''
  await Promise.all([watcher.disconnect(), other.disconnect(), redirected.disconnect()])
  return { types, disks, storage, barrier, linked, errors, pool, watchError, ref }
})
