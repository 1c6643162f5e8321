package replica

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// ledger counts a run's traffic: per sender the most it said it had sent, per
// disk the most that was read, and what was written. It is kept in ledger.db,
// two slots written in turn, so that a write cut off costs one entry and not
// the file. It is written at every commit without a sync: a kill of the
// process loses nothing, a loss of power only counts.
type ledger struct {
	mu   sync.Mutex
	f    *os.File
	seq  uint64
	data ledgerData
}

type ledgerData struct {
	// Run and Term are those of the run, see [SessionSpec].
	Run     int             `json:"run"`
	Term    int             `json:"term,omitempty"`
	Senders map[string]sent `json:"senders"`
	// Folded is the sum of senders dropped to bound the ledger.
	Folded sent                `json:"folded"`
	Order  []string            `json:"order"`
	Disks  map[int]*diskCounts `json:"disks"`
}

type sent struct {
	Wire int64 `json:"wire"`
	Raw  int64 `json:"raw"`
}

type diskCounts struct {
	Read    int64 `json:"read"`
	Written int64 `json:"written"`
}

const (
	ledgerSlot       = 128 << 10
	ledgerHeader     = 16 // sequence u64, length u32, CRC-32C u32
	maxLedgerSenders = 64
)

// openLedger reads the ledger of a run; the counts of another run are dropped.
func openLedger(dir string, run, term int) (*ledger, error) {
	f, err := os.OpenFile(filepath.Join(dir, "ledger.db"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	l := &ledger{f: f}
	for slot := range int64(2) {
		var data ledgerData
		seq, b, err := readLedgerSlot(f, slot*ledgerSlot)
		if err != nil {
			f.Close()
			return nil, err
		}
		if b == nil || seq <= l.seq || json.Unmarshal(b, &data) != nil {
			continue
		}
		l.seq, l.data = seq, data
	}
	if l.data.Run != run || l.data.Term != term {
		l.data = ledgerData{Run: run, Term: term}
	}
	if l.data.Senders == nil {
		l.data.Senders = make(map[string]sent)
	}
	if l.data.Disks == nil {
		l.data.Disks = make(map[int]*diskCounts)
	}
	return l, nil
}

// readLedgerSlot returns nil for a slot that holds nothing whole.
func readLedgerSlot(f *os.File, off int64) (uint64, []byte, error) {
	b := make([]byte, ledgerSlot)
	n, err := f.ReadAt(b, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, nil, fmt.Errorf("read the ledger: %w", err)
	}
	if n < ledgerHeader {
		return 0, nil, nil
	}
	seq := binary.LittleEndian.Uint64(b)
	length := binary.LittleEndian.Uint32(b[8:])
	if int64(length) > int64(n-ledgerHeader) {
		return 0, nil, nil
	}
	body := b[ledgerHeader : ledgerHeader+int(length)]
	if binary.LittleEndian.Uint32(b[12:]) != crc32.Checksum(body, castagnoli) {
		return 0, nil, nil
	}
	return seq, body, nil
}

// save writes the counts to the slot that is not the newest.
func (l *ledger) save() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	body, err := json.Marshal(l.data)
	if err != nil {
		return err
	}
	if len(body) > ledgerSlot-ledgerHeader {
		return fmt.Errorf("the ledger of run %d outgrew its slot", l.data.Run)
	}
	l.seq++
	b := make([]byte, ledgerHeader, ledgerHeader+len(body))
	binary.LittleEndian.PutUint64(b, l.seq)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(body)))
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(body, castagnoli))
	if _, err := l.f.WriteAt(append(b, body...), int64(l.seq%2)*ledgerSlot); err != nil {
		return fmt.Errorf("write the ledger: %w", err)
	}
	return nil
}

// sentBy raises what a sender says it has sent since it began.
func (l *ledger) sentBy(sender string, s sent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was, known := l.data.Senders[sender]
	if !known {
		l.data.Order = append(l.data.Order, sender)
		if len(l.data.Order) > maxLedgerSenders {
			first := l.data.Order[0]
			l.data.Folded.Wire += l.data.Senders[first].Wire
			l.data.Folded.Raw += l.data.Senders[first].Raw
			delete(l.data.Senders, first)
			l.data.Order = l.data.Order[1:]
		}
	}
	l.data.Senders[sender] = sent{Wire: max(was.Wire, s.Wire), Raw: max(was.Raw, s.Raw)}
}

func (l *ledger) disk(index int) *diskCounts {
	d := l.data.Disks[index]
	if d == nil {
		d = &diskCounts{}
		l.data.Disks[index] = d
	}
	return d
}

// read raises the high-water mark of a disk.
func (l *ledger) read(d Disk, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.disk(d.Index)
	c.Read = max(c.Read, min(n, d.SizeBytes))
}

func (l *ledger) wrote(index int, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.disk(index).Written += n
}

func (l *ledger) progress(disks []Disk) Progress {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := Progress{BytesSent: l.data.Folded.Wire, BytesSentRaw: l.data.Folded.Raw}
	for _, s := range l.data.Senders {
		p.BytesSent += s.Wire
		p.BytesSentRaw += s.Raw
	}
	for _, d := range disks {
		c := l.disk(d.Index)
		p.add(DiskProgress{Index: d.Index, BytesTotal: d.SizeBytes, BytesRead: c.Read, BytesWritten: c.Written})
	}
	return p
}

func (p *Progress) add(d DiskProgress) {
	p.BytesTotal += d.BytesTotal
	p.BytesRead += d.BytesRead
	p.BytesWritten += d.BytesWritten
	p.Disks = append(p.Disks, d)
}
