package devcluster

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports are taken below the range from which the kernel takes those of outgoing connections (32768 on Linux), so that
// a port stays free while its owner is down.
const firstPort, lastPort = 20000, 32000

// freePorts finds n ports of 127.0.0.1 where nobody listens now.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for tries := 0; len(ports) < n; tries++ {
		if tries > 50*n+1000 {
			return nil, fmt.Errorf("found no %d free ports on 127.0.0.1 between %d and %d", n, firstPort, lastPort)
		}
		port := firstPort + rand.IntN(lastPort-firstPort)
		l, err := net.Listen("tcp", addr(port))
		if err != nil {
			continue
		}
		defer l.Close() // held until all are found, so that none is found twice
		ports = append(ports, port)
	}
	return ports, nil
}

func addr(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
