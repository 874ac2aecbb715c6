// An XVA that Xen Orchestra's writer makes, uploaded in one go by Xen Orchestra's client library as it writes: PUT /import/ with a
// content length of 1 PiB, a probe for redirection before it, the outcome from the task.
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'

import { importVm } from '@xen-orchestra/xva/importVm.mjs'
import { createClient } from 'xen-api'

import { run, within } from './report.mjs'

const patience = 30

// disk is what the writer asks of a VHD: its size, and its content as a stream.
async function disk(path) {
  const { size } = await stat(path)
  return { footer: { currentSize: size }, rawContent: async () => createReadStream(path) }
}

run(
  async ({ url, username, password, sr, files }) => {
    const xapi = createClient({ url, auth: { user: username, password }, allowUnauthorized: true, debounce: 10 })
    await xapi.connect()
    await within(patience, 'the first fetch of all objects', xapi.objectsFetched)
    const storage = Object.values(xapi.objects.all).find(object => object.$type === 'SR' && object.name_label === sr)
    const vhds = await Promise.all(files.map(disk))
    const vm = {
      name_label: 'by Xen Orchestra',
      memory: 256 * 1024 * 1024,
      nCpus: 2,
      firmware: 'uefi',
      vdis: vhds.map((vhd, n) => ({ name_label: `disk ${n}`, virtual_size: vhd.footer.currentSize })),
      vhds,
      networks: [],
    }
    const ref = await within(
      patience,
      'the import',
      importVm(vm, { task_create: name => xapi.createTask(name), putResource: (...args) => xapi.putResource(...args) }, storage)
    )
    const record = await xapi.getRecord('VM', ref)
    const vbds = await xapi.getRecords('VBD', record.VBDs)
    vbds.sort((a, b) => a.userdevice - b.userdevice)
    const vdis = await Promise.all(vbds.map(vbd => xapi.getRecord('VDI', vbd.VDI)))
    await xapi.disconnect()
    return {
      uuid: record.uuid,
      name: record.name_label,
      firmware: record.HVM_boot_params.firmware,
      disks: vdis.map(({ uuid, name_label, virtual_size }) => ({ uuid, name: name_label, size: Number(virtual_size) })),
    }
  },
  [/missing length/] // the client says so of each stream whose length it was not told
)
